"""Bit rot: what is read from a damaged store is exact, or an error; fsck tells of all that hurts, by name."""

from __future__ import annotations

from pathlib import Path

from tests.trials.recipe import Recipe, tried
from tests.trials.rot import RECIPES
from tests.trials.rot.controls import CONTROLS, SAID
from tests.trials.rot.recipes import order
from tests.trials.warm import warm

BY_NAME = {recipe.name: recipe for recipe in RECIPES}


def test_six_hundred_damages_of_every_kind_are_told_or_hurt_nothing(tmp_path: Path) -> None:
    found = tried(BY_NAME["rot"], range(24), tmp_path)
    assert found.total() == 600
    kinds = {"hurts nothing", "told by fsck, and hurts"}
    kinds |= {f"not opened: {kind}" for kind in ("corrupt-object", "truncated-store", "history-lost")}
    assert kinds <= found.keys()


def test_these_damages_hit_every_kind_of_page_frame_and_file(tmp_path: Path) -> None:
    found = tried(Recipe("strata", (), "", "", 0, warm("tests.trials.rot.recipes:strata")), range(24), tmp_path)
    pages = {
        f"{tree} leaf" for tree in ("free", "main", "meta", "ref", "reflog", "mark", "figures", "base", "dependant")
    }
    pages |= {
        f"{tree} {kind}" for tree in ("chunk", "node", "tree") for kind in ("branch", "leaf", "value, first page")
    }
    files = {f"garbage in {name}" for name in ("mark", "gate", "examined")}
    assert {"head", "unused", "bit", "cut", "commit leaf", *pages, *files} <= found.keys()
    for kind in (1, 2, 3, 4):
        for part in ("head", "payload"):
            assert any(one.startswith(f"{part} of a frame of kind {kind} ") for one in found), f"{part} of {kind}"


def test_every_bit_of_a_record_that_flips_is_told(tmp_path: Path) -> None:
    found = tried(Recipe("records", (), "", "", 0, warm("tests.trials.rot.recipes:records")), range(7), tmp_path)
    assert found.total() == 175 and "hurts nothing" not in found
    assert any("told by fsck" in outcome for outcome in found)


def test_bits_of_a_small_store_are_told_or_hurt_nothing(tmp_path: Path) -> None:
    found = tried(BY_NAME["every-bit"], range(1), tmp_path)
    assert found.total() == 150
    assert {"hurts nothing", "told by fsck, and hurts", "not opened: corrupt-object"} <= found.keys()


def test_a_file_cut_about_the_bounds_of_its_pages_is_told(tmp_path: Path) -> None:
    found = tried(BY_NAME["every-length"], range(7), tmp_path)
    assert found.total() >= 14
    assert "not opened: truncated-store" in found


def test_damage_under_a_process_that_has_the_store_open_never_shows_as_other_bytes(tmp_path: Path) -> None:
    found = tried(BY_NAME["rot-while-open"], range(14), tmp_path)
    assert found.total() == 14
    assert any("it is told" in outcome for outcome in found)


def test_a_store_that_checked_less_would_be_found_out(tmp_path: Path) -> None:
    control = Recipe("control", (), "", "", 0, warm("tests.trials.rot.controls:trial"))
    found = tried(control, range(1), tmp_path)
    assert {outcome.partition(":")[0] for outcome in found} == {f"without {what}" for what in CONTROLS}
    assert all(outcome.partition(": ")[2] in SAID for outcome in found), found


def test_the_order_of_bits_leads_to_every_one() -> None:
    for total in (97, 1000, 8 * 4096):
        step = order(total)
        assert len({number * step % total for number in range(total)}) == total
