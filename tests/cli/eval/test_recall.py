"""infini eval: figures, their files, and mistakes in one line."""

import json

import pytest

from infini_attention.cli.shared.counts import parse_counts, parse_lengths
from infini_attention.errors import ConfigError

QUICK = ("--lengths", 512, "--depths", 2, "--samples", 2)
PROMISED = {
    *("task", "model", "lengths", "accuracy", "worst_cell", "interval", "samples", "outside_window_share", "memory"),
    *("state_bytes", "seconds", "cells", "versions", "threads", "commit", "fingerprint", "seed", "haystack"),
}


def test_passkey(run_json, model_dir, tmp_path):
    result = run_json("eval", "passkey", "-m", model_dir, *QUICK, "--out", tmp_path / "out")
    assert set(result) >= PROMISED
    assert (result["task"], result["lengths"], result["depths"], result["memory"]) == ("passkey", [512], 2, "on")
    assert [(cell["length"], cell["depth"]) for cell in result["cells"]] == [(512, 0.0), (512, 1.0)]
    assert result["accuracy"] == 0  # the tiny model is untrained
    assert result["interval"] == pytest.approx([0, 0.4899], abs=1e-4)
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        "passkey-repeat.json",
        "passkey-repeat.png",
        "passkey.jsonl",
    ]
    assert [json.loads(line) for line in (folder / "passkey.jsonl").read_text().splitlines()] == result["cells"]
    assert json.loads((folder / "passkey-repeat.json").read_text()) == result
    assert result["heat_map"] == str(folder / "passkey-repeat.png")


def test_it_goes_on_where_it_was(run_json, model_dir, tmp_path, monkeypatch):
    command = ("eval", "passkey", "-m", model_dir, *QUICK, "--out", tmp_path)
    first = run_json(*command)
    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", None)
    assert run_json(*command)["cells"] == first["cells"]


def test_controls_have_files_of_their_own(run_json, model_dir, tmp_path):
    command = ("eval", "passkey", "-m", model_dir, *QUICK, "--out", tmp_path)
    assert run_json(*command, "--memory", "off")["memory"] == "off"
    assert run_json(*command, "--no-needle")["needle"] is False
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "passkey-repeat-memory-off.png",
        "passkey-repeat-no-needle.png",
    }
    assert len((tmp_path / "passkey.jsonl").read_text().splitlines()) == 4


def test_keys(run_json, model_dir):
    result = run_json(
        "eval", "keys", "-m", model_dir, "--lengths", "1K", "--keys", "1,4", "--samples", 1, "--rewritten", 1
    )
    assert [(cell["keys"], cell["answers"]) for cell in result["cells"]] == [(1, 1), (4, 4)]
    assert (result["keys"], result["rewritten"], result["lengths"]) == ([1, 4], 1, [1024])
    assert [row["length"] for row in result["capacity"]] == [1024]


def test_keys_that_were_never_written(run_json, model_dir, tmp_path):
    options = ("--lengths", "1K", "--keys", 4, "--samples", 1, "--no-needle", "--out", tmp_path)
    result = run_json("eval", "keys", "-m", model_dir, *options)
    assert (result["needle"], result["accuracy"], result["outside_window_share"]) == (False, 0, 0)
    assert (tmp_path / "keys-repeat-no-needle.json").is_file()


def test_facts(run_json, model_dir, tmp_path):
    options = ("--lengths", "1K", "--facts", "1,4", "--samples", 1, "--out", tmp_path)
    result = run_json("eval", "facts", "-m", model_dir, *options)
    assert [(cell["facts"], cell["questions"], cell["answers"]) for cell in result["cells"]] == [(1, 1, 1), (4, 4, 4)]
    assert (result["facts"], result["haystack"]) == ([1, 4], "book")
    control = run_json("eval", "facts", "-m", model_dir, *options, "--no-needle")
    assert (control["needle"], control["outside_window_share"]) == (False, 0)
    assert (tmp_path / "facts-book-no-needle.json").is_file()


def test_a_book(run_json, model_dir, text):
    novel = run_json("eval", "passkey", "-m", model_dir, *QUICK, "--haystack", "book")
    own = run_json("eval", "passkey", "-m", model_dir, *QUICK, "--haystack", "book", "--haystack-file", text)
    assert novel["haystack"] == own["haystack"] == "book"
    assert novel["cells"][0]["haystack_digest"] != own["cells"][0]["haystack_digest"]


def test_for_people(run_cli, model_dir):
    code, out, err = run_cli("eval", "passkey", "-m", model_dir, *QUICK)
    assert (code, err) == (0, "")
    assert "interval              0.0000 to 0.4899 (95 %)" in out
    assert "512 tokens:   0.00% exact" in out


def test_without_matplotlib(run_cli, model_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    code, out, err = run_cli("eval", "passkey", "-m", model_dir, *QUICK, "--out", tmp_path, "--json")
    assert code == 0
    assert "no picture: a heat map needs matplotlib" in err
    assert json.loads(out)["heat_map"] is None


def test_an_interrupt(run_cli, model_dir, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", interrupted)
    assert run_cli("eval", "passkey", "-m", model_dir, *QUICK).code == 130


def test_alone_it_shows_what_there_is(run_cli):
    code, out, err = run_cli("eval")
    assert (code, err) == (0, "")
    assert "  passkey " in out
    assert "  keys " in out
    assert "  ruler " in out
    assert "  perplexity " in out


@pytest.mark.parametrize(
    ("text", "lengths"), [("4096", (4096,)), ("4K,1m", (4096, 1 << 20)), (" 2k , 3", (2048, 3)), ("50M", (50 << 20,))]
)
def test_lengths(text, lengths):
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ["", "0", "4K,", "4.5K", "-1", "1G", "K", "0x10", "²"])
def test_lengths_that_make_no_sense(text):
    with pytest.raises(ConfigError, match="must look like 4096 or 4K"):
        parse_lengths(text)


@pytest.mark.parametrize("text", ["", "0", "1,", "1-4", "four", "²"])
def test_counts_that_make_no_sense(text):
    with pytest.raises(ConfigError, match="--keys must look like"):
        parse_counts("--keys", text)


MISTAKES = [
    ("passkey -m missing", "no model at 'missing'"),
    ("passkey -m model --lengths 4Q", "--lengths must look like"),
    ("passkey -m model --lengths 100", "100 tokens are too few for 1 needles"),
    ("passkey -m model --depths 0", "--depths"),
    ("passkey -m model --samples 0", "--samples"),
    ("passkey -m model --haystack hay", "--haystack"),
    ("passkey -m model --memory maybe", "--memory"),
    ("passkey -m model --haystack-file good.txt", "give both"),
    ("passkey -m model --haystack book --haystack-file missing.txt", "missing.txt: no such file"),
    ("passkey -m model --haystack book --haystack-file empty.txt", "empty.txt: is empty"),
    ("passkey -m model --out good.txt", "good.txt is a file; --out expects a folder"),
    ("passkey -m model --out no/where", "its folder no does not exist"),
    ("passkey -m model --out full", "is no file of results"),
    ("passkey -m model --device tpu", "device 'tpu' cannot be used"),
    ("keys -m model --keys 1-4", "--keys must look like"),
    ("keys -m model --keys 1000", "keys must be between 1 and"),
    ("keys -m model --keys 64 --lengths 512", "512 tokens are too few for 64 needles and 8 questions"),
    ("keys -m model --rewritten -1", "--rewritten"),
    ("facts -m model --facts 1000000", "facts must be between 1 and"),
    ("keys -m model --questions 0", "--questions"),
    ("guess", "No such command 'guess'"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_mistakes_are_one_line(run_cli, model_dir, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model_dir)
    (tmp_path / "good.txt").write_text("some text")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "passkey.jsonl").write_text("notes\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run_cli("eval", *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("infini: ")
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before
