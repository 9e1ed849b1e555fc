"""Bit rot: a store's files are damaged in every way that comes to mind, and what is read then is exact, or an error."""

from tests.trials.rot.recipes import RECIPES

__all__ = ["RECIPES"]
