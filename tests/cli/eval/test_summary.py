"""infini eval summary: figures, their files, and mistakes in one line."""

import json

import pytest

from tiny import book

QUICK = ("--section", 256, "--max-new-tokens", 8, "--samples", 1)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"document": book(700), "reference": "Catherine is a heroine."}] * 2
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_figures_and_files(run_json, model_dir, pairs, tmp_path, monkeypatch):
    command = ("eval", "summary", "-m", model_dir, "--file", pairs, *QUICK, "--out", tmp_path / "out")
    result = run_json(*command)
    assert (result["task"], result["samples"], result["documents"], result["lengths"]) == (
        "summary",
        1,
        str(pairs),
        [700],
    )
    assert result.keys() >= {"model", "accuracy", "worst_cell", "interval", "outside_window_share", "memory"}
    assert result.keys() >= {"state_bytes", "seconds", "cells", "rouge", "fingerprint", "seed", "section_tokens"}
    assert set(result["rouge"]) == {"model", "lead", "random"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"summary.json", "summary.jsonl"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == result
    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", None)
    assert run_json(*command)["cells"] == result["cells"]


def test_for_people(run_cli, model_dir, pairs):
    code, out, err = run_cli("eval", "summary", "-m", model_dir, "--file", pairs, *QUICK, "--memory", "off")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.split("\n\n")[1].splitlines()] == ["rouge1", "model", "lead", "random"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "documents come from --file or from --dataset"),
        ("--file missing.jsonl", "missing.jsonl: no such file"),
        ("--file {pairs} --document-column text", "column 'text' must hold text"),
        ("--file {pairs} --section 100", "whole segments of 16 tokens; got 100"),
        ("--file {pairs} --section x", "--section must look like"),
        ("--file {pairs} --memory off --full-attention", "--memory off empties the memory"),
    ],
)
def test_mistakes_are_one_line(run_cli, model_dir, pairs, command, words):
    code, out, err = run_cli("eval", "summary", "-m", model_dir, *command.format(pairs=pairs).split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err
