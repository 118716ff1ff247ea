"""infini eval perplexity: figures that agree with infini read, their files, and mistakes in one line."""

import json

import pytest

from tiny import SEGMENT, book

PROMISED = {
    *("task", "model", "files", "tokens", "memory", "difference", "positions", "state_bytes", "full_kv_bytes"),
    *("seconds", "fingerprint", "rule", "segment_size", "versions", "machine", "threads", "commit"),
}


@pytest.fixture
def evaluate(run_json, model_dir):
    def evaluate(*args):
        return run_json("eval", "perplexity", "-m", model_dir, *args)

    return evaluate


def test_both_ways(evaluate, run_json, model_dir, text, tmp_path):
    result = evaluate("--file", text, "--out", tmp_path / "out")
    assert result.keys() >= PROMISED
    assert (result["task"], result["segment_size"], list(result["memory"])) == ("perplexity", SEGMENT, ["on", "off"])
    assert result["tokens"] == result["tokens_read"] - 1 == text.stat().st_size - 1
    reading = run_json("read", text, "-m", model_dir)
    assert result["memory"]["on"]["perplexity"] == pytest.approx(reading["perplexity"], rel=1e-5)
    assert (result["state_bytes"], result["full_kv_bytes"]) == (reading["state_bytes"], reading["full_kv_bytes"])
    assert result["memory"]["off"]["perplexity"] != pytest.approx(reading["perplexity"], rel=1e-3)
    on, off = (result["memory"][mode]["bits_per_byte"] for mode in ("on", "off"))
    assert result["difference"]["bits_per_byte"] == pytest.approx(on - off)
    assert result["positions"][0]["difference"] == pytest.approx(0, abs=1e-6)
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == ["perplexity.json", "perplexity.jsonl", "position.png"]
    assert json.loads((folder / "perplexity.json").read_text()) == result
    assert result["curve"] == str(folder / "position.png")


def test_the_control_is_the_window_alone(evaluate, run_json, base_dir, text):
    """A model converted without any memory reads every segment as the control does."""
    control = run_json("eval", "perplexity", "-m", base_dir, "--segment-size", 16, "--file", text, "--memory", "off")
    window = run_json("read", text, "-m", base_dir, "--segment-size", 16, "--rule", "none")
    assert control["memory"]["off"]["perplexity"] == pytest.approx(window["perplexity"], rel=1e-5)


def test_what_int8_weights_cost(evaluate, run_cli, model_dir, text, tmp_path):
    floating = evaluate("--file", text, "--memory", "off")["memory"]["off"]
    rounded = evaluate("--file", text, "--memory", "off", "--dtype", "int8", "--out", tmp_path)
    cost, off = rounded["cost_of_int8"], rounded["memory"]["off"]
    assert cost["memory"] == "off"
    assert cost["perplexity"] == [pytest.approx(off["perplexity"]), pytest.approx(floating["perplexity"])]
    assert cost["perplexity"][0] != cost["perplexity"][1]
    for name in ("bits_per_byte", "nats_per_token"):
        assert cost[name] == pytest.approx(off[name] - floating[name])
        assert 0 < cost[f"{name}_se"] < off[f"{name}_se"]
    again = run_cli("eval", "perplexity", "-m", model_dir, "--file", text, "--dtype", "int8", "--out", tmp_path)
    assert again.code == 0 and "int8 weights cost" in again.out and ", with the memory on: perplexity" in again.out


def test_it_goes_on_where_it_was(evaluate, text, tmp_path, monkeypatch):
    off = evaluate("--file", text, "--out", tmp_path, "--memory", "off")
    first = evaluate("--file", text, "--out", tmp_path)
    assert first["memory"]["off"] == off["memory"]["off"]
    monkeypatch.setattr("infini_attention.evaluation.perplexity.task.token_losses", None)
    assert evaluate("--file", text, "--out", tmp_path) == first
    assert len((tmp_path / "perplexity.jsonl").read_text().splitlines()) == 2
    assert {path.name for path in tmp_path.glob("p*")} == {
        *("perplexity.jsonl", "perplexity.json", "position.png"),
        *("perplexity-memory-off.json", "position-memory-off.png"),
    }


def test_several_texts_and_the_novel(evaluate, text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(book()[5000:7000], encoding="utf-8")
    result = evaluate("--file", text, "--file", other, "--max-tokens", "1K")
    assert [(each["file"], each["tokens_read"]) for each in result["files"]] == [(str(text), 1024), (str(other), 1024)]
    assert result["tokens_read"] == 2048
    [novel] = evaluate("--max-tokens", "1K")["files"]
    assert (novel["file"], novel["digest"]) == ("northanger-abbey.txt", result["files"][0]["digest"])


def test_for_people(run_cli, model_dir, text):
    code, out, err = run_cli("eval", "perplexity", "-m", model_dir, "--file", text, "--max-tokens", 600)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "tokens          599" in lines
    figures = next(line.split() for line in lines if line.startswith("bits per byte "))
    assert [figures[place] for place in (4, 7, 10)] == ["+-"] * 3
    last = next(line.split() for line in lines if line.startswith(f"{512:>11,}{600:>12,}"))
    assert len(last) == 2 + 3 * 3
    code, out, err = run_cli("eval", "perplexity", "-m", model_dir, "--file", text, "--memory", "off")
    assert "on - off" not in out


def test_without_matplotlib(run_cli, model_dir, text, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    code, out, err = run_cli("eval", "perplexity", "-m", model_dir, "--file", text, "--out", tmp_path / "o", "--json")
    assert code == 0
    assert "no picture: a picture needs matplotlib" in err
    assert json.loads(out)["curve"] is None
    assert (tmp_path / "o" / "perplexity.json").exists()


def test_an_interrupt(run_cli, model_dir, text, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("infini_attention.evaluation.perplexity.task.token_losses", interrupted)
    assert run_cli("eval", "perplexity", "-m", model_dir, "--file", text).code == 130


MISTAKES = [
    ("-m missing", "no model at 'missing'"),
    ("-m model --file missing.txt", "missing.txt: no such file"),
    ("-m model --file good.txt --file empty.txt", "empty.txt: is empty"),
    ("-m model --file binary.txt", "binary.txt: a binary file"),
    ("-m model --file short.txt", "short.txt: is too short: expected at least 2 tokens"),
    ("-m model --file good.txt --file good.txt", "good.txt: is the same text as good.txt"),
    ("-m model --file good.txt --max-tokens 1", "--max-tokens must be at least 2"),
    ("-m model --max-tokens 4Q", "--max-tokens must look like"),
    ("-m model --memory maybe", "--memory"),
    ("-m model --file good.txt --out good.txt", "good.txt is a file; --out expects a folder"),
    ("-m model --file good.txt --out no/where", "its folder no does not exist"),
    ("-m model --file good.txt --out full", "is no file of results"),
    ("-m model --file good.txt --segment-size 8", "is an Infini model already"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_mistakes_are_one_line(run_cli, model_dir, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model_dir)
    (tmp_path / "good.txt").write_text("some text")
    (tmp_path / "short.txt").write_text("a")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "perplexity.jsonl").write_text("notes\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run_cli("eval", "perplexity", *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("infini: ")
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before
