"""infini demo: what it measures is what it shows, and a mistake costs no work."""

import json
import shlex

import pytest

from evaluation.pages import Page
from infini_attention.data.novel import BOOK, book_path
from tiny import BOOK as NOVEL
from tiny import book

PROMISED = {
    *("model", "tokens", "haystack", "depth", "key", "answer", "answer_memory_off", "recalled", "recalled_memory_off"),
    *("seconds", "tokens_per_second", "state_bytes", "full_kv_bytes", "report", "grid", "seed", "haystack_digest"),
    *("versions", "machine", "threads", "commit", "fingerprint"),
}
SHORT = ("--tokens", "1K")


@pytest.fixture(autouse=True)
def here(tmp_path_factory, tmp_path, monkeypatch):
    """The working directory, and a beginning of the novel in place of it."""
    start = tmp_path_factory.mktemp("books") / BOOK
    start.write_text(book(3000), encoding="utf-8")
    monkeypatch.setattr("infini_attention.cli.demo.book_path", lambda: start)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def demo(run_json, model_dir):
    return lambda *args: run_json("demo", "-m", model_dir, *args)


def test_measured_and_shown(demo, here, model_dir):
    result = demo("--tokens", "5K", "--seed", 9)
    assert set(result) >= PROMISED
    assert (result["model"], result["haystack"], result["tokens"]) == (str(model_dir), [BOOK], 5 * 1024)
    assert (result["recalled"], result["recalled_memory_off"]) == (False, False)  # the tiny model is untrained
    assert result["full_kv_bytes"] == 5 * 1024 * 2 * 2 * 2 * 8 * 4
    assert [(cell["length"], cell["depth"]) for cell in result["grid"]] == [
        *((4096, n / 4) for n in range(5)),
        (5 * 1024, result["depth"]),
    ]
    assert [path.name for path in here.iterdir()] == [result["report"]] == ["infini-demo.html"]
    page = Page((here / "infini-demo.html").read_text())
    page.assert_needs_nothing()
    shown = [" ".join(result[name].split()) for name in ("answer", "answer_memory_off")]
    assert page.cells("answers")[2:] == [
        *("the key is", "on", *filter(None, shown[:1]), "wrong"),
        *("off", *filter(None, shown[1:]), "wrong"),
    ]
    for words in (result["key"], BOOK, result["machine"], result["fingerprint"][:12], "did not recall the key"):
        assert words in page.text
    [command] = [text for path, text in page.texts if path[-1][0] == "pre"]
    again = demo(*shlex.split(command)[4:])
    assert shlex.split(command)[:4] == ["infini", "demo", "-m", str(model_dir)]
    changing = {"seconds", "tokens_per_second", "commit"}
    assert {name: again[name] for name in again.keys() - changing} == {n: result[n] for n in result.keys() - changing}


def test_own_texts(demo, text, here):
    hostile = here / "<img src='https:&'>.txt"
    hostile.write_text("Some words of another text. " * 40)
    result = demo(*SHORT, "--haystack", text, "--haystack", hostile.name, "-o", "own.html", "--dtype", "bfloat16")
    assert (result["haystack"], result["report"]) == ([str(text), hostile.name], "own.html")
    assert result["haystack_tokens"] == text.stat().st_size + hostile.stat().st_size
    assert result["full_kv_bytes"] == 1024 * 2 * 2 * 2 * 8 * 2
    page = Page((here / "own.html").read_text())
    page.assert_needs_nothing()
    assert "img" not in page.tags
    assert f"--haystack {shlex.quote(hostile.name)} --dtype bfloat16" in page.text


def test_for_people(run_cli, model_dir):
    code, out, err = run_cli("demo", "-m", model_dir, *SHORT)
    assert (code, err) == (0, "")  # not recalled, but measured
    assert out.startswith("The model did not recall the key.\n\n")
    assert f"% of 1,024 tokens of {BOOK}\n" in out
    assert "map of recall       0 of 1 right\n" in out
    assert "report              infini-demo.html\n" in out


def test_the_novel_is_there():
    assert book_path().samefile(NOVEL)


def test_a_seed_is_another_key(demo):
    assert demo(*SHORT)["key"] == demo(*SHORT, "--seed", 0)["key"] != demo(*SHORT, "--seed", 1)["key"]


def test_without_matplotlib(run_cli, model_dir, here, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    code, out, err = run_cli("demo", "-m", model_dir, *SHORT, "--json")
    assert (code, err.count("\n")) == (0, 1)
    assert "no picture in the report: a heat map needs matplotlib" in err
    assert len(json.loads(out)["grid"]) == 1
    assert "No picture:" in (here / "infini-demo.html").read_text()


def test_it_replaces_its_own_reports_and_nothing_else(run_cli, demo, model_dir, here):
    first = demo(*SHORT)
    second = demo(*SHORT, "--seed", 1)
    assert first["key"] != second["key"]
    assert second["key"] in (here / "infini-demo.html").read_text()
    (here / "infini-demo.html").write_text("<html>my notes</html>")
    assert run_cli("demo", "-m", model_dir, *SHORT).code == 2
    assert (here / "infini-demo.html").read_text() == "<html>my notes</html>"
    demo(*SHORT, "--force")
    assert "my notes" not in (here / "infini-demo.html").read_text()


def test_its_default_is_the_built_in_model(run_json, model_dir, monkeypatch):
    monkeypatch.setattr("infini_attention.models.loading.builtin_path", lambda: model_dir)
    assert run_json("demo", *SHORT)["model"] == "builtin"


def test_an_interrupt_leaves_nothing(run_cli, model_dir, here, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("infini_attention.evaluation.stream.ModelStream.read", interrupted)
    assert run_cli("demo", "-m", model_dir, *SHORT).code == 130
    assert list(here.iterdir()) == []


MISTAKES = [
    ("", "this installation lacks the built-in weights"),
    ("-m missing", "no model at 'missing'"),
    ("-m model --tokens 4Q", "--tokens must look like 4096, 128K or 1M; got '4Q'"),
    ("-m model --tokens 4K,8K", "--tokens must look like"),
    ("-m model --tokens 0", "--tokens must look like"),
    ("-m model --tokens 100", "100 tokens are too few for 1 needles"),
    ("-m model --haystack missing.txt", "missing.txt: no such file"),
    ("-m model --haystack good.txt --haystack empty.txt", "empty.txt: is empty"),
    ("-m model -o good.txt", "good.txt exists already; give --force"),
    ("-m model -o model --force", "model is not a file"),
    ("-m model -o /dev/null --force", "/dev/null is not a file"),
    ("-m model -o no/where.html", "its folder no does not exist"),
    ("-m model --device tpu", "device 'tpu' cannot be used"),
    ("-m model --dtype float8", "--dtype"),
    ("-m model --seed one", "--seed"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_mistakes_are_one_line(run_cli, model_dir, here, monkeypatch, command, words):
    monkeypatch.setattr("infini_attention.models.loading.builtin_path", lambda: here / "nothing")
    (here / "model").symlink_to(model_dir)
    (here / "good.txt").write_text("some text")
    (here / "empty.txt").touch()
    before = sorted(here.rglob("*"))
    code, out, err = run_cli("demo", *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("infini: ")
    assert words in err
    assert sorted(here.rglob("*")) == before
