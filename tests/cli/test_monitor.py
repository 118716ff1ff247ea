"""infini read --monitor, infini inspect and infini report on a tiny model."""

import json

import pytest

from evaluation.pages import Page
from tiny import SEGMENT, base_model, save_model

STATE = ("effective_rank", "utilisation", "norm")


class TestRead:
    def test_figures_over_time(self, run_json, model_dir, text):
        result = run_json("read", text, "-m", model_dir, "--monitor-every", 1000)
        monitor, count = result["monitor"], text.stat().st_size
        assert [mark["tokens"] for mark in monitor["marks"]] == [1024, 2048, count]
        assert monitor["marks"][-1]["state_bytes"] == result["state_bytes"]
        assert monitor["metrics"]["sequence_length"]["tokens_seen"] == count
        assert monitor["metrics"]["compression"]["with_window"] == result["full_kv_bytes"] / result["state_bytes"]
        assert monitor["retention"][0]["segments"] == 1
        assert [layer["layer"] for layer in monitor["layers"]] == [0, 1]
        assert monitor["seconds"] > 0

    def test_it_is_left_out_unless_asked_for(self, run_json, model_dir, text):
        assert "monitor" not in run_json("read", text, "-m", model_dir)

    def test_nothing_else_changes(self, run_json, model_dir, text, tmp_path):
        plain, watched = tmp_path / "plain", tmp_path / "watched"
        ref = run_json("read", text, "-m", model_dir, "-o", plain)
        out = run_json("read", text, "-m", model_dir, "-o", watched, "--monitor")
        assert (out["perplexity"], out["tokens_read"]) == (ref["perplexity"], ref["tokens_read"])
        assert watched.read_bytes() == plain.read_bytes()

    def test_as_text(self, run_cli, model_dir, text):
        code, out, err = run_cli("read", text, "-m", model_dir, "--monitor")
        assert (code, err) == (0, "")
        for words in ("memory complexity", "the same after 1,024 and", "eff. rank", "memory update efficiency"):
            assert words in out, words

    def test_nothing_to_read(self, run_json, model_dir, text, tmp_path):
        session = tmp_path / "session"
        run_json("read", text, "-m", model_dir, "-o", session)
        assert run_json("read", text, "-o", session, "--resume", "--monitor")["monitor"] is None

    def test_the_file_must_not_be_there(self, run_cli, model_dir, text, tmp_path):
        (tmp_path / "m.jsonl").write_text("old")
        code, _, err = run_cli("read", text, "-m", model_dir, "--monitor-file", tmp_path / "m.jsonl")
        assert (code, "give --force" in err) == (2, True)
        assert run_cli("read", text, "-m", model_dir, "--monitor-file", tmp_path / "m.jsonl", "--force").code == 0


@pytest.fixture
def session(run_json, model_dir, text, tmp_path):
    path = tmp_path / "session"
    run_json("read", text, "-m", model_dir, "-o", path, "--monitor-file", tmp_path / "stream.jsonl")
    return path


class TestInspect:
    def test_live_and_offline_agree(self, run_json, session, tmp_path):
        live = run_json("inspect", tmp_path / "stream.jsonl")
        offline = run_json("inspect", session, "--tokens", 0)
        for name in ("sequence_length", "compression"):
            assert live["metrics"][name] == offline["metrics"][name]
        for mine, other in zip(live["layers"], offline["layers"], strict=True):
            assert all(mine[name] == other[name] for name in STATE)
        assert live["fingerprint"] == offline["fingerprint"]
        assert (offline["session"], offline["marks"]) == (str(session), [])

    def test_a_session_that_reads_on_in_a_fork(self, run_json, session):
        before = session.read_bytes()
        result = run_json("inspect", session, "--tokens", 512)
        assert session.read_bytes() == before
        assert result["recall"]["asked"] == 3
        assert result["layers"][0]["gate"] is not None

    def test_a_model(self, run_json, model_dir):
        result = run_json("inspect", model_dir, "--tokens", 512, "--seed", 3)
        assert (result["task"], result["session"], result["seed"]) == ("inspect", None, 3)
        assert result["metrics"]["memory_complexity"]["constant"] is True
        assert result["versions"]["torch"]

    def test_as_text(self, run_cli, model_dir):
        code, out, err = run_cli("inspect", model_dir, "--tokens", 512)
        assert (code, err) == (0, "")
        rows = [line.split() for line in out.splitlines() if line.strip()]
        assert rows[4][:2] == ["sequence", "length"]
        assert [row[:2] for row in rows[-4:]] == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]]
        assert len(rows[-1]) == 2 + 2 * 2 + 6 + 3  # gate and share of two query heads each, and "a to b"

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["picture.png", "picture.svg"])
    def test_pictures(self, run_json, session, tmp_path, name):
        for source in (tmp_path / "stream.jsonl", session):
            tokens = () if source.suffix else ("--tokens", 256)
            result = run_json("inspect", source, *tokens, "--plot", tmp_path / name, "--force")
            assert result["plot"] == str(tmp_path / name)
            assert len((tmp_path / name).read_bytes()) > 10_000

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("{model}", "--tokens", "0"), "give --tokens, or name a session"),
            (("{model}", "--tokens", "20"), "at least 3 segments of 16 tokens"),
            (("{model}", "--plot", "x.gif"), "must end in .png or .svg"),
            (("nowhere",), "no model at 'nowhere'"),
            (("nowhere.jsonl",), "is no file of"),
            (("{text}",), "is not a session file"),
            (("{model}", "-m", "{model}"), "a second model"),
            (("{base}", "--rule", "none", "--tokens", "512"), "no memory to look at"),
        ],
    )
    def test_mistakes(self, run_cli, model_dir, base_dir, text, arguments, words):
        arguments = [each.format(model=model_dir, text=text, base=base_dir) for each in arguments]
        code, out, err = run_cli("inspect", *arguments)
        assert (code, out) == (2, "")
        assert words in err and err.count("\n") == 1

    def test_pictures_need_matplotlib(self, run_cli, model_dir, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        code, _, err = run_cli("inspect", model_dir, "--plot", tmp_path / "x.png")
        assert (code, "pip install 'infini-attention[plot]'" in err) == (2, True)


SMALL = ("--tokens", 256, "--max-tokens", 300, "--lengths", 256, "--depths", 2, "--samples", 1)


class TestReport:
    @pytest.mark.slow
    def test_a_page(self, run_json, model_dir, tmp_path):
        path = tmp_path / "report.html"
        result = run_json("report", "-m", model_dir, "-o", path, *SMALL)
        assert result["report"] == str(path)
        [model] = result["models"]
        assert model["perplexity"]["tokens"] == 299
        assert len(model["recall"][0]["cells"]) == 2
        page = Page(path.read_text(encoding="utf-8"))
        page.assert_needs_nothing()
        assert model["facts"]["fingerprint"][:12] in page.text
        [command] = [text for path, text in page.texts if path[-1][0] == "pre"]
        assert command == result["command"]
        assert run_json(*command.split()[1:], "-o", path)["models"][0]["recall"] == model["recall"]  # its own page

    @pytest.mark.slow
    def test_nothing_is_measured_twice(self, run_cli, run_json, model_dir, tmp_path):
        folder = tmp_path / "results"
        folder.mkdir()
        run_json("eval", "passkey", "-m", model_dir, "--lengths", 256, "--depths", 2, "--samples", 1, "--out", folder)
        run_json("eval", "perplexity", "-m", model_dir, "--max-tokens", 300, "--out", folder)
        (folder / "inspect.json").write_text(json.dumps(run_json("inspect", model_dir, "--tokens", 512)))
        result = run_cli("report", "-m", model_dir, "-o", tmp_path / "r.html", "--results", folder, "--json")
        assert (result.code, "passkey 1, perplexity 1, inspect 1" in result.err) == (0, True), result.err
        [model] = json.loads(result.out)["models"]
        assert model["inspect"]["file"] == str(folder / "inspect.json")
        assert model["perplexity"]["file"] == str(folder / "perplexity.json")
        assert model["recall"][0]["files"] == [str(folder / "passkey-repeat.json")]

    @pytest.mark.slow
    def test_several_models(self, run_cli, model_dir, base_dir, tmp_path):
        path = tmp_path / "report.html"
        sources = ("-m", model_dir, "-m", base_dir, "--segment-size", SEGMENT)
        code, _, err = run_cli("report", *sources, "-o", path, *SMALL)
        assert (code, "its segment_size cannot be set again" in err) == (2, True)
        code, out, _ = run_cli("report", "-m", model_dir, "-m", model_dir, "-o", path, *SMALL)
        assert code == 0
        assert f"{model_dir}: 0 % of 2 keys recalled, worst cell 0 %; with the memory off 0 % of 2." in out
        assert "1: " in Page(path.read_text(encoding="utf-8")).cells("metrics")[1]

    @pytest.mark.slow
    def test_beside_a_model_without_a_memory(self, run_cli, model_dir, tmp_path):
        base, path, quick = base_model(), tmp_path / "report.html", ("--depths", 1, "--lengths", 300, "--samples", 1)
        base.config.max_position_embeddings = 280
        plain, folder = save_model(tmp_path / "plain", base), tmp_path / "results"
        words = f"{plain} was made for texts of 280 tokens: nothing longer was measured now\n"
        sources = ("-m", model_dir, "--full-attention", plain)
        code, out, err = run_cli("report", *sources, "-o", path, *SMALL, *quick, "--json")
        assert (code, err) == (0, words)
        ours, other = json.loads(out)["models"]
        assert (ours["facts"]["attention"], other["facts"]["attention"]) == ("infini", "full")
        assert [[cell["length"] for cell in each["recall"][0]["cells"]] for each in (ours, other)] == [[300], [280]]
        assert f"-m {model_dir} --full-attention {plain} " in Page(path.read_text(encoding="utf-8")).text
        # what infini eval has measured of it, beyond its length too, is taken as it is
        run_cli("eval", "passkey", "-m", plain, "--full-attention", *quick, "--out", folder)
        code, out, err = run_cli("report", "--full-attention", plain, "-o", path, *SMALL, "--results", folder, "--json")
        assert (code, "passkey 1, perplexity 0" in err) == (0, True), err
        [model] = json.loads(out)["models"]
        assert model["recall"][0]["files"] == [str(folder / "passkey-repeat-full-attention.json")]
        assert model["recall"][0]["cells"][0]["length"] == 300

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "expected a model to report on; got none"),
            (("--full-attention", "{model}"), "is an Infini model: it has no full attention"),
            (("--full-attention", "{model}", "--rule", "delta"), "--full-attention converts nothing"),
            (("-m", "{model}", "-m", "{model}", "--adapter", "x"), "--adapter belongs to one model"),
            (("-m", "{model}", "--results", "nowhere"), "is no folder"),
            (("-m", "{model}", "--lengths", "x"), "--lengths must look like"),
            (("-m", "{model}", "--file", "nowhere"), "nowhere"),
        ],
    )
    def test_mistakes(self, run_cli, model_dir, tmp_path, arguments, words):
        arguments = [each.format(model=model_dir) for each in arguments]
        code, out, err = run_cli("report", *arguments, "-o", tmp_path / "report.html")
        assert (code, out, words in err) == (2, "", True), err
        assert list(tmp_path.iterdir()) == []

    def test_other_files_are_not_replaced(self, run_cli, model_dir, tmp_path):
        path = tmp_path / "report.html"
        path.write_text("mine")
        code, _, err = run_cli("report", "-m", model_dir, "-o", path, *SMALL)
        assert (code, "give --force" in err, path.read_text()) == (2, True, "mine")
