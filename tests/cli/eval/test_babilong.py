"""infini eval babilong: figures, their files, and mistakes in one line."""

import json

import pytest

QUICK = ("--tasks", "qa4,qa1", "--lengths", 900, "--samples", 2, "--haystack-file")


def test_figures_and_files(run_json, model_dir, text, tmp_path, monkeypatch):
    command = ("eval", "babilong", "-m", model_dir, *QUICK, text, "--split", "held-out", "--out", tmp_path)
    result = run_json(*command)
    assert (result["task"], result["split"], result["subtasks"]) == ("babilong", "held-out", ["qa4", "qa1"])
    assert result.keys() >= {"lengths", "accuracy", "worst_cell", "interval", "samples", "outside_window_share"}
    assert result.keys() >= {"memory", "state_bytes", "seconds", "cells", "model", "needle", "fingerprint", "seed"}
    assert [(cell["question"], cell["haystack"]) for cell in result["cells"]] == [("qa1", "book"), ("qa4", "book")]
    run_json("eval", "babilong", "-m", model_dir, *QUICK, text, "--out", tmp_path)
    names = {path.name for path in tmp_path.iterdir()} - {text.name}
    assert names == {
        *("babilong-book-held-out.json", "babilong-book-held-out.png"),
        *("babilong-book.json", "babilong-book.png", "babilong.jsonl"),
    }
    assert json.loads((tmp_path / "babilong-book-held-out.json").read_text()) == result
    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", None)
    assert run_json(*command)["cells"] == result["cells"]


def test_for_people_with_a_chat_template(run_cli, chat_dir, text):
    code, out, err = run_cli("eval", "babilong", "-m", chat_dir, *QUICK, text, "--memory", "off")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["tokens", "qa1", "qa4"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--tasks qa6", "tasks must be some of qa1, qa2"),
        ("--split new", "--split"),
        ("--lengths 100", "100 tokens are too few for qa1"),
        ("--memory off --full-attention", "--memory off empties the memory"),
    ],
)
def test_mistakes_are_one_line(run_cli, model_dir, command, words):
    code, out, err = run_cli("eval", "babilong", "-m", model_dir, *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err
