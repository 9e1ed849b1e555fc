"""Every recipe there is, found in tests/trials."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Final

from tests.trials.recipe import Recipe

TRIALS: Final = "tests.trials"


def all_recipes(package: str = TRIALS) -> dict[str, Recipe]:
    """The recipes below a package by name, in the order of their modules."""
    found: dict[str, Recipe] = {}
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if module.name.rpartition(".")[2].startswith("test_"):
            continue
        for recipe in getattr(importlib.import_module(module.name), "RECIPES", ()):
            assert found.get(recipe.name, recipe) is recipe, f"two recipes are named {recipe.name}"
            found[recipe.name] = recipe
    return found
