"""Results of earlier runs: those of this model, put together, and no others."""

import json

import pytest

from infini_attention.errors import InputError
from infini_attention.evaluation.report.found_results import find_results, merge_cells

MINE = "f" * 64


def cell(length, depth, hits, answers=4):
    return {"length": length, "depth": depth, "hits": hits, "answers": answers, "outside_window": answers - 1}


def passkey(*cells, **changes):
    about = {"task": "passkey", "fingerprint": MINE, "haystack": "book", "memory": "on", "needle": True}
    return about | {"cells": list(cells)} | changes


@pytest.fixture
def folder(tmp_path):
    """`folder(name=result, ...)` writes files, and gives their folder."""

    def folder(**files):
        (tmp_path / "deep").mkdir(exist_ok=True)
        for number, (name, content) in enumerate(files.items()):
            path = tmp_path / ("deep" if number % 2 else ".") / f"{name}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return folder


def test_those_of_the_model(folder):
    path = folder(
        mine=passkey(cell(64, 0.0, 4)),
        other=passkey(cell(64, 0.0, 0), fingerprint="0" * 64),
        losses={"task": "perplexity", "fingerprint": MINE, "tokens_read": 10},
        more={"task": "perplexity", "fingerprint": MINE, "tokens_read": 99},
        keys={"task": "keys", "fingerprint": MINE},
        broken="{",
        a_list="[1]",
    )
    found = find_results([path], MINE)
    assert [result["file"] for result in found.passkey] == [str(path / "mine.json")]
    assert [result["tokens_read"] for result in found.perplexity] == [99, 10]
    assert found.inspect == []


def test_recordings_are_results(tmp_path):
    from infini_attention.models.fingerprint import fingerprint
    from infini_attention.monitor import Collector
    from infini_attention.monitor.file import MonitorFile, about_model
    from tiny import book, infini_model, new_session

    model = infini_model()
    with (
        MonitorFile(tmp_path / "stream.jsonl", about_model(model, "tiny")) as file,
        Collector(model, on_record=file.write),
    ):
        new_session(model).read(book(200))
    (tmp_path / "journal.jsonl").write_text('{"task": "passkey"}\n')
    [result] = find_results([tmp_path], fingerprint(model)).inspect
    assert result["metrics"]["sequence_length"]["tokens_seen"] == 200
    assert result["file"] == str(tmp_path / "stream.jsonl")


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        find_results([tmp_path / "nowhere"], MINE)


class TestMerging:
    def test_cells_of_several_runs(self):
        runs = [
            passkey(cell(64, 0.0, 4), cell(64, 1.0, 2), file="a"),
            passkey(cell(64, 0.0, 2), cell(4096, 0.0, 1, answers=1), file="b"),
        ]
        [merged] = merge_cells(runs)
        assert [(c["length"], c["depth"], c["exact"]) for c in merged["cells"]] == [
            (64, 0.0, 0.75),
            (64, 1.0, 0.5),
            (4096, 0.0, 1.0),
        ]
        assert merged["answers"] == 13
        assert merged["accuracy"] == pytest.approx(0.75)
        assert merged["worst_cell"]["depth"] == 1.0
        assert merged["outside_window_share"] == pytest.approx(9 / 13)
        assert merged["interval"][0] < 9 / 13 < merged["interval"][1]
        assert merged["files"] == ["a", "b"]

    def test_controls_stay_apart_below_what_they_control(self):
        runs = [
            passkey(cell(64, 0.0, 0), memory="off"),
            passkey(cell(64, 0.0, 4), haystack="repeat"),
            passkey(cell(64, 0.0, 0), needle=False),
            passkey(cell(64, 0.0, 4)),
        ]
        assert [(part["haystack"], part["memory"], part["needle"]) for part in merge_cells(runs)] == [
            ("book", "on", True),
            ("book", "on", False),
            ("book", "off", True),
            ("repeat", "on", True),
        ]
