"""`casckpt config`: settings and where they come from; what is fixed stays so, and how to have it otherwise is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from casckpt.history.repository import History
from casckpt.store.format import FORMAT_VERSION
from tests.cli.conftest import Casckpt


def test_config_tells_each_setting_and_its_source(
    at: Casckpt, casckpt: Casckpt, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = {setting["name"]: setting for setting in at("config", "--json").json}
    assert {name: found[name]["value"] for name in ("hash", "chunk_size", "codec", "version")} == {
        "hash": "xxh3_128", "chunk_size": 4096, "codec": "none", "version": FORMAT_VERSION,
    }  # fmt: skip
    assert found["store"]["source"] == "-C"
    assert found["NO_COLOR"] == {"name": "NO_COLOR", "value": None, "source": "not set", "meaning": "1: no colours"}
    monkeypatch.setenv("CASCKPT_REPO", history.path)
    found = {setting["name"]: setting for setting in casckpt("config", "--json").json}
    assert found["store"]["source"] == "CASCKPT_REPO"
    assert (found["CASCKPT_REPO"]["value"], found["CASCKPT_REPO"]["source"]) == (history.path, "environment")
    monkeypatch.delenv("CASCKPT_REPO")
    monkeypatch.chdir(Path(history.path))
    assert {s["name"]: s["source"] for s in casckpt("config", "--json").json}["store"] == "found here"
    assert max(map(len, at("config").out.splitlines())) <= 80


def test_one_setting_is_bare(at: Casckpt, history: History) -> None:
    assert at("config", "chunk_size").out == "4096\n"
    assert at("config", "uuid").out == history.store.format.uuid + "\n"
    assert at("config", "CASCKPT_DEBUG").out == "\n"
    assert at("config", "codec", "--json").json["value"] == "none"


def test_without_a_store_the_environment_is_left(casckpt: Casckpt, tmp_path: Path) -> None:
    assert {setting["name"] for setting in casckpt("config", "--json").json} == {
        "CASCKPT_REPO", "CASCKPT_DEBUG", "NO_COLOR", "COLUMNS",
    }  # fmt: skip
    assert casckpt("config", "COLUMNS").out == "80\n"
    assert casckpt("config", "hash").code == 21
    assert casckpt("-C", tmp_path / "none", "config").code == 21
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["codec", "small"], "casckpt init PATH --codec small"),
        (["chunk_size", "256K"], "casckpt init PATH --chunk-size 256K"),
        (["uuid", "1"], "cannot be chosen"),
        (["CASCKPT_DEBUG", "1"], "export CASCKPT_DEBUG=1"),
        (["chunksize"], "did you mean 'chunk_size'?"),
        (["zzz", "1"], "there are store, hash"),
    ],
)
def test_nothing_can_be_set_and_the_way_out_is_said(
    at: Casckpt, history: History, arguments: list[str], said: str
) -> None:
    ran = at("config", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert at("config", "codec").out == "none\n"
    assert at("config", *arguments, "--json").failure["exit_code"] == 2
