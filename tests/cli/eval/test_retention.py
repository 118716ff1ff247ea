"""infini eval retention: the curve, its files, and mistakes in one line."""

import json

import pytest


def test_figures_and_files(run_json, model_dir, tmp_path, monkeypatch):
    command = ("eval", "retention", "-m", model_dir, "--keys", 2, "--up-to", 6, "--samples", 2, "--out", tmp_path)
    result = run_json(*command)
    assert (result["task"], result["segments"], result["keys"]) == ("retention", [1, 2, 4, 6], 2)
    assert result.keys() >= {"lengths", "accuracy", "worst_cell", "interval", "samples", "outside_window_share"}
    assert result.keys() >= {"memory", "state_bytes", "seconds", "cells", "curve", "model", "needle", "fingerprint"}
    assert [cell["segments"] for cell in result["cells"]] == [1, 2, 4, 6]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"retention-repeat.json", "retention-repeat.png", "retention.jsonl"}
    assert json.loads((tmp_path / "retention-repeat.json").read_text()) == result
    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", None)
    assert run_json(*command)["cells"] == result["cells"]


def test_for_people(run_cli, model_dir):
    command = ("eval", "retention", "-m", model_dir, "--keys", 1, "--up-to", 2, "--samples", 1, "--memory", "off")
    code, out, err = run_cli(*command)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "after      2 segments: 0.0% (0 to 79)"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--keys 1000", "keys must be between 1 and"),
        ("--up-to 0", "--up-to"),
        ("--memory off --full-attention", "--memory off empties the memory"),
    ],
)
def test_mistakes_are_one_line(run_cli, model_dir, command, words):
    code, out, err = run_cli("eval", "retention", "-m", model_dir, *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err
