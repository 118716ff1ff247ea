"""--full-attention: the base model as it is, beside its twin, with the same commands."""

import json
import re

import pytest

from tiny import book

NOTE = "note: {} tokens are more than the 64 that this model was trained for\n"
BYTES_PER_TOKEN = 256


@pytest.fixture
def evaluate(run_cli, base_dir):
    """`evaluate(task, *args)`: the result, and what was said beside it."""

    def evaluate(task, *args):
        code, out, err = run_cli("eval", task, "-m", base_dir, "--full-attention", "--json", *args)
        assert code == 0, err
        return json.loads(out), err

    return evaluate


def test_passkey(evaluate, run_json, base_dir, tmp_path):
    quick = ("--lengths", 512, "--depths", 2, "--samples", 2, "--out", tmp_path)
    result, err = evaluate("passkey", *quick)
    twin = run_json("eval", "passkey", "-m", base_dir, *quick)
    assert err == NOTE.format(512)
    assert (result["attention"], result["rule"], result["segment_size"]) == ("full", None, None)
    assert (twin["attention"], twin["rule"]) == ("infini", "gated_delta")
    assert (result["outside_window_share"], result["memory"]) == (0, "on")
    assert result["state_bytes"] == 507 * BYTES_PER_TOKEN
    assert {path.name for path in tmp_path.iterdir()} == {
        *("passkey-repeat-full-attention.json", "passkey-repeat-full-attention.png"),
        *("passkey-repeat.json", "passkey-repeat.png", "passkey.jsonl"),
    }
    assert len((tmp_path / "passkey.jsonl").read_text().splitlines()) == 4
    assert evaluate("passkey", *quick)[0]["cells"] == result["cells"]


def test_keys(evaluate):
    result, err = evaluate("keys", "--lengths", "1K", "--keys", 4, "--samples", 1)
    assert (result["attention"], result["answers"], err) == ("full", 4, NOTE.format("1,024"))


def test_perplexity(evaluate, run_json, base_dir, tmp_path):
    file, out = tmp_path / "text.txt", tmp_path / "out"
    file.write_text(book(1000), encoding="utf-8")
    result, err = evaluate("perplexity", "--file", file, "--out", out)
    assert (err, result["attention"], list(result["memory"])) == (NOTE.format("1,000"), "full", ["on"])
    assert result["state_bytes"] == result["full_kv_bytes"] == 1000 * BYTES_PER_TOKEN
    assert {path.name for path in out.iterdir()} == {
        *("perplexity-full-attention.json", "position-full-attention.png", "perplexity.jsonl"),
    }
    # a twin whose first segment holds the whole text is the same model
    twin = run_json("eval", "perplexity", "-m", base_dir, "--segment-size", 1024, "--file", file, "--memory", "on")
    assert result["memory"]["on"]["perplexity"] == pytest.approx(twin["memory"]["on"]["perplexity"], rel=1e-4)


def test_within_its_length_nothing_is_said(evaluate, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(book(64), encoding="utf-8")
    assert evaluate("perplexity", "--file", file)[1] == ""


def test_for_people(run_cli, base_dir, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(book(60), encoding="utf-8")
    code, out, err = run_cli("eval", "perplexity", "-m", base_dir, "--full-attention", "--file", file)
    assert (code, err) == (0, "")
    assert re.search(r"^attention +full$", out, re.MULTILINE)
    assert "memory" not in out
    code, out, err = run_cli("eval", "passkey", "-m", base_dir, "--full-attention", "--lengths", 400, "--samples", 1)
    assert re.search(r"^attention +full$", out, re.MULTILINE)
    assert re.search(r"^outside window share +0$", out, re.MULTILINE)


MISTAKES = [
    ("passkey -m base --memory off", "--memory off empties the memory, which a model with --full-attention does not"),
    ("keys -m base --memory off", "--memory off empties the memory"),
    ("perplexity -m base --memory off", "--memory off empties the memory"),
    ("perplexity -m base --memory both", "--memory off empties the memory"),
    ("passkey -m base --segment-size 8", "--full-attention converts nothing, so that --segment-size cannot be set"),
    ("passkey -m base --rule delta --segment-size 8", "so that --segment-size and --rule cannot be set"),
    ("passkey -m base --adapter some.safetensors", "so that --adapter cannot be set"),
    ("perplexity -m base --rule none", "so that --rule cannot be set"),
    ("passkey -m model", "model is an Infini model: it has no full attention"),
    ("passkey -m missing", "no model at 'missing'"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_mistakes_are_one_line(run_cli, model_dir, base_dir, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model_dir)
    (tmp_path / "base").symlink_to(base_dir)
    code, out, err = run_cli("eval", *command.split(), "--full-attention")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("infini: ")
    assert words in err
