"""The recipes of hostile input."""

from __future__ import annotations

from typing import Final

from tests.trials.hostile.covered import COVERED
from tests.trials.hostile.fuzz import MUTATIONS
from tests.trials.hostile.stores import STORES
from tests.trials.hostile.strategies import MADE_UP
from tests.trials.recipe import Recipe

RECIPES: Final[tuple[Recipe, ...]] = (MUTATIONS, MADE_UP, COVERED, STORES)
