"""infini eval ruler and infini eval needle: figures, their files, and mistakes in one line."""

import json

import pytest

from infini_attention.cli.eval.ruler import NEEDLES, TASKS
from infini_attention.data import ruler_text
from infini_attention.data.ruler_text import KINDS

QUICK = ("--lengths", 900, "--samples", 2)
PROMISED = {
    *("task", "model", "lengths", "accuracy", "worst_cell", "interval", "samples", "outside_window_share", "memory"),
    *("state_bytes", "seconds", "cells", "versions", "threads", "commit", "fingerprint", "seed", "haystack"),
    *("subtasks", "needle", "scores", "attention", "adapter"),
}


@pytest.fixture
def ruler(run_json, model_dir):
    def ruler(tasks, *args):
        return run_json("eval", "ruler", "-m", model_dir, "--tasks", tasks, *QUICK, *args)

    return ruler


def test_all_tasks(run_json, model_dir, text):
    """The default asks for all of them, with room for the longest question of a tokenizer of bytes."""
    assert (",".join(KINDS), ",".join(ruler_text.NEEDLES)) == (TASKS, NEEDLES)
    result = run_json(
        "eval", "ruler", "-m", model_dir, "--lengths", 2700, "--samples", 1, "--haystack-file", text, "--memory", "off"
    )
    assert result.keys() >= PROMISED
    assert (result["task"], result["lengths"], result["subtasks"]) == ("ruler", [2700], list(KINDS))
    assert [(cell["length"], cell["subtask"]) for cell in result["cells"]] == [(2700, name) for name in KINDS]
    assert (result["haystack"], result["memory"], result["attention"]) == ("book+list+repeat", "off", "infini")
    assert result["accuracy"] == 0  # the tiny model is untrained
    assert result["interval"] is None
    assert "standard_error" in result


def test_its_files(ruler, tmp_path):
    folder = tmp_path / "out"
    result = ruler("vt,niah_single_1", "--out", folder)
    assert [cell["subtask"] for cell in result["cells"]] == result["subtasks"] == ["niah_single_1", "vt"]
    assert sorted(path.name for path in folder.iterdir()) == ["ruler-repeat.json", "ruler-repeat.png", "ruler.jsonl"]
    assert [json.loads(line) for line in (folder / "ruler.jsonl").read_text().splitlines()] == result["cells"]
    assert json.loads((folder / "ruler-repeat.json").read_text()) == result
    assert ruler("niah_single_1")["interval"] == pytest.approx([0, 0.6576], abs=1e-4)


def test_it_goes_on_where_it_was(ruler, tmp_path, monkeypatch):
    first = ruler("niah_single_1,vt", "--out", tmp_path)
    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", None)
    assert ruler("vt", "--out", tmp_path)["cells"] == first["cells"][1:]


def test_needle_is_a_part_of_ruler(ruler, run_json, model_dir, tmp_path, monkeypatch):
    """What one has run, the other does not run again."""
    folder = tmp_path / "out"
    command = ("eval", "needle", "-m", model_dir, "--tasks", "niah_single_1", *QUICK, "--out", folder)
    first = run_json(*command)
    assert first["task"] == "needle"
    both = ruler("vt,niah_single_1", "--out", folder)
    assert both["cells"][0] == first["cells"][0]
    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", None)
    assert run_json(*command)["cells"] == first["cells"]
    assert {path.name for path in folder.glob("*.json*")} == {"needle-repeat.json", "ruler-repeat.json", "ruler.jsonl"}


def test_controls_have_files_of_their_own(ruler, tmp_path):
    assert ruler("niah_single_1", "--out", tmp_path, "--memory", "off")["memory"] == "off"
    assert ruler("niah_single_1", "--out", tmp_path, "--no-needle")["needle"] is False
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "ruler-repeat-memory-off.png",
        "ruler-repeat-no-needle.png",
    }


def test_a_book(ruler, text):
    novel, own = ruler("niah_single_2"), ruler("niah_single_2", "--haystack-file", text)
    assert novel["haystack"] == own["haystack"] == "book"
    assert novel["cells"][0]["haystack_digest"] != own["cells"][0]["haystack_digest"]


def test_for_people(run_cli, model_dir):
    command = ("eval", "ruler", "-m", model_dir, "--tasks", "niah_single_1,vt", "--lengths", "900,1K", "--samples", 2)
    code, out, err = run_cli(*command)
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()[-3:]] == [
        "tokens 900 1,024",
        "niah_single_1 0.0% (0 to 66) 0.0% (0 to 66)",
        "vt 0.0% +- 0.0% 0.0% +- 0.0%",
    ]


def test_a_plain_model(run_cli, base_dir):
    code, out, err = run_cli(
        "eval", "ruler", "-m", base_dir, "--tasks", "niah_single_1", *QUICK, "--full-attention", "--json"
    )
    result = json.loads(out)
    assert (code, result["attention"], result["outside_window_share"]) == (0, "full", 0)
    assert err == "note: 900 tokens are more than the 64 that this model was trained for\n"
    assert result["state_bytes"] == (900 - 30) * 256


MISTAKES = [
    ("-m missing", "no model at 'missing'"),
    ("-m model --tasks niah_single_1,qa_1", "tasks must be some of niah_single_1, niah_single_2"),
    ("-m model --tasks vt,", "got ''"),
    ("-m model --lengths 4Q", "--lengths must look like"),
    ("-m model --lengths 300", "300 tokens are too few for niah_single_1, which takes"),
    ("-m model --samples 0", "--samples"),
    ("-m model --memory maybe", "--memory"),
    ("-m model --tasks vt --haystack-file good.txt", "--haystack-file is a book, which vt does not read"),
    ("-m model --haystack-file missing.txt", "missing.txt: no such file"),
    ("-m model --out good.txt", "good.txt is a file; --out expects a folder"),
    ("-m model --out full --tasks vt", "is no file of results"),
    ("-m model --tasks cwe --lengths 1000", "1000 tokens are too few for cwe"),
    ("-m model --memory off --full-attention", "--memory off empties the memory, which a model with --full-attention"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_mistakes_are_one_line(run_cli, model_dir, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model_dir)
    (tmp_path / "good.txt").write_text("some text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "ruler.jsonl").write_text("notes\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run_cli("eval", "ruler", *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("infini: ")
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before
