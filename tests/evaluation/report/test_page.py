"""Pages that show what was measured, and need nothing else."""

import jinja2
import pytest

from evaluation.pages import Page
from infini_attention.errors import InputError
from infini_attention.evaluation.report.demo_page import demo_page
from infini_attention.evaluation.report.heat_map import recall_figure
from infini_attention.evaluation.report.page import inline_svg, render, save_page

HOSTILE = "<script>alert('1')</script>\"&.txt"
CELLS = [
    *({"length": 4096, "depth": depth, "exact": depth / 1, "outside_window": 1} for depth in (0.0, 1.0)),
    {"length": 1 << 20, "depth": 0.614, "exact": 1.0, "outside_window": 0},
]


@pytest.fixture
def result():
    return {
        "model": "a/model",
        "haystack": ["a.txt", "b.txt"],
        "haystack_tokens": 500_000,
        "haystack_digest": "0123456789ab",
        "seed": 7,
        "tokens": 1 << 20,
        "depth": 0.614,
        "needle_token": 643_211,
        "tokens_to_question": 405_123,
        "outside_window": True,
        "key": "48213",
        "answer": "48213",
        "answer_memory_off": "19999",
        "recalled": True,
        "recalled_memory_off": False,
        "seconds": 51.2,
        "tokens_per_second": 20_479.5,
        "state_bytes": 300_000,
        "full_kv_bytes": 3_000_000_000,
        "grid": CELLS,
        "fingerprint": "f" * 64,
        "rule": "gated_delta",
        "segment_size": 64,
        "versions": {"torch": "9.9", "python": "3.99"},
        "machine": "a machine",
        "threads": 1,
        "commit": "c0ffee-dirty",
    }


EXCERPT = ("it was quite ridiculous!", "The pass key is 48213.", "There was not")


def page_of(result, command=("infini", "demo")):
    return Page(demo_page(result, EXCERPT, list(command)))


def test_it_shows_what_was_measured(result):
    page = page_of(result)
    assert page.cells("answers") == ["memory", "answer", "the key is", "on", "48213", "right", "off", "19999", "wrong"]
    for words in (
        "The model recalled the key; with its memory switched off it did not.",
        "a/model read a.txt, b.txt (again and again, 2.1 times) with",
        "… it was quite ridiculous! The pass key is 48213. There was not …",
        "begins at token 643,211, 61.4 % of the way",
        "405,123 tokens lie between",
        "300.0 kB",
        "3.0 GB, 10,000 times as much, and growing",
        "51 s, 20,480 tokens a second",
        "a machine, 1 thread",
        "torch 9.9, python 3.99",
        "c0ffee-dirty",
        "0123456789ab, 500,000 tokens",
        "rule gated_delta, segment 64",
    ):
        assert words in page.text, words


def test_other_answers_are_other_words(result):
    page = page_of(result | {"recalled": False, "recalled_memory_off": True, "answer": "1", "outside_window": False})
    assert page.cells("answers")[3:] == ["on", "1", "wrong", "off", "19999", "right"]
    assert "The model did not recall the key." in page.text
    assert "Here the key is still among them." in page.text
    page = page_of(result | {"haystack_tokens": 1 << 20, "full_kv_bytes": 10, "commit": None})
    assert not [words for words in ("again and again", "times as much", "commit") if words in page.text]


def test_the_map_as_a_table(result):
    assert page_of(result).cells("map") == [
        *("depth", "4K", "1M"),
        *("0 %", "wrong"),
        *("61 %", "right*"),
        *("100 %", "right"),
    ]


def test_it_needs_nothing_else(result):
    page = page_of(result)
    page.assert_needs_nothing()
    assert "svg" in page.tags
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    assert "prefers-color-scheme: dark" in page.source


@pytest.mark.parametrize("name", ["model", "answer", "answer_memory_off", "key", "machine", "commit", "haystack"])
def test_nothing_is_taken_for_html(result, name):
    page = page_of(result | {name: [HOSTILE] if name == "haystack" else HOSTILE})
    assert HOSTILE in page.text
    page.assert_needs_nothing()


def test_the_excerpt_and_the_command_neither(result):
    page = Page(demo_page(result, (HOSTILE,) * 3, ["infini", "demo", "--haystack", HOSTILE]))
    page.assert_needs_nothing()
    assert page.text.count(HOSTILE) == 3
    [command] = [text for path, text in page.texts if path[-1][0] == "pre"]
    import shlex

    assert shlex.split(command) == ["infini", "demo", "--haystack", HOSTILE]


def test_without_matplotlib_the_table_stands_open(result, monkeypatch):
    assert ("details", {}) in page_of(result).elements
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    page = page_of(result)
    assert "svg" not in page.tags
    assert "No picture: a heat map needs matplotlib: pip install 'infini-attention[plot]'" in page.text
    assert ("details", {"open": None}) in page.elements
    page.assert_needs_nothing()


def test_a_misspelt_name_is_an_error(result):
    del result["rule"]
    with pytest.raises(jinja2.UndefinedError, match="rule"):
        page_of(result)


class TestFigures:
    def test_text_is_text_in_the_colour_of_the_page(self):
        svg = inline_svg(recall_figure(CELLS, axis="depth", title=HOSTILE))
        assert svg.startswith("<svg ")
        assert HOSTILE in Page(svg).text
        assert "length (tokens)" in Page(svg).text
        assert "currentColor" in svg
        assert "#000000" not in svg
        Page(svg).assert_needs_nothing()

    def test_the_same_bytes_each_time(self):
        assert len({inline_svg(recall_figure(CELLS, axis="depth")) for _ in range(2)}) == 1

    def test_it_shows_the_cells(self):
        green, red = "#006837", "#a50026"  # the ends of the scale
        for share, colour, other in ((1.0, green, red), (0.0, red, green)):
            svg = inline_svg(recall_figure([cell | {"exact": share} for cell in CELLS], axis="depth"))
            assert (svg.count(colour), svg.count(other)) == (3, 0)


class TestSaving:
    def test_names_that_are_no_text(self, tmp_path):
        save_page("a \udcff name, ü", tmp_path / "page.html")
        assert (tmp_path / "page.html").read_text(encoding="utf-8") == "a \\udcff name, ü"

    def test_a_failure_leaves_what_was_there(self, tmp_path, monkeypatch):
        path = tmp_path / "page.html"
        path.write_text("old")
        monkeypatch.setattr("pathlib.Path.replace", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(InputError, match="could not be written"):
            save_page("new", path)
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"page.html": "old"}


def test_templates_of_this_package_only():
    with pytest.raises(jinja2.TemplateNotFound):
        render("../page.py")
