"""infini eval mqar: figures, their files, and mistakes in one line."""

import json

import pytest

QUICK = ("--lengths", 256, "--pairs", "2,8", "--samples", 2)


def test_figures_and_files(run_json, model_dir, tmp_path, monkeypatch):
    command = ("eval", "mqar", "-m", model_dir, *QUICK, "--out", tmp_path / "out")
    result = run_json(*command)
    assert (result["task"], result["lengths"], result["pairs"]) == ("mqar", [256], [2, 8])
    assert result.keys() >= {"accuracy", "worst_cell", "interval", "samples", "outside_window_share", "memory"}
    assert result.keys() >= {"state_bytes", "seconds", "cells", "chance", "curve", "vocabulary", "seed", "needle"}
    assert (result["outside_window_share"], len(result["cells"])) == (1, 2)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"mqar-repeat.json", "mqar-repeat.png", "mqar.jsonl"}
    assert json.loads((tmp_path / "out" / "mqar-repeat.json").read_text()) == result
    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", None)
    assert run_json(*command)["cells"] == result["cells"]


def test_for_people(run_cli, model_dir):
    code, out, err = run_cli("eval", "mqar", "-m", model_dir, *QUICK, "--memory", "off", "--no-needle")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["pairs", "2", "8"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--pairs 2,x", "--pairs must look like"),
        ("--pairs 1000", "pairs must be between 1 and"),
        ("--lengths 20", "20 tokens are too few for 64 pairs"),
        ("--memory off --full-attention", "--memory off empties the memory"),
        ("--haystack-file none.txt", "give both"),
    ],
)
def test_mistakes_are_one_line(run_cli, model_dir, command, words):
    code, out, err = run_cli("eval", "mqar", "-m", model_dir, *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err
