"""Power fails at moments of what is done to a store, or of an export: a tier of the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trials.power.recipes import IMAGES, RECIPES
from tests.trials.recipe import Recipe, tried

STORIES = {"power-loss": 14, "power-loss-anew": 3, "power-loss-whole": 3, "power-loss-exports": 8}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_whenever_power_fails_what_was_acknowledged_is_there_and_more_is_whole_or_not(
    recipe: Recipe, tmp_path: Path
) -> None:
    found = tried(recipe, range(STORIES[recipe.name]), tmp_path)
    assert sum(found.values()) == IMAGES * STORIES[recipe.name]
    ends = ("done", "made", "the new one", "as acknowledged")
    came_about = sum(count for what, count in found.items() if what.endswith(ends))
    assert 10 <= came_about <= sum(found.values()) - 10, found


def test_a_thousand_images_are_tried() -> None:
    assert sum(STORIES.values()) * IMAGES >= 1000
