"""A report on a tiny model: measured, found again, and shown on a page that needs nothing else."""

import pytest
import torch
from playwright.sync_api import sync_playwright
from transformers import MambaConfig, MambaForCausalLM

from chromium import CONTRAST, launch
from evaluation.pages import Page
from infini_attention.data.haystack import Haystack
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.report.found_results import Found
from infini_attention.evaluation.report.model_page import model_page, verdict
from infini_attention.evaluation.report.model_report import Scale, report_on
from tiny import SEGMENT, base_model, book, byte_tokenizer, infini_model

HOSTILE = "<script>alert('1')</script>\"&"
ENVIRONMENT = {"machine": "a machine", "threads": 1, "versions": {"torch": "9.9"}, "commit": "c0ffee"}
SCALE = Scale(tokens=512, text_tokens=600, lengths=(256, 512), depths=2, samples=1)


def text(count):
    return Text.from_blocks([book(count)], byte_tokenizer(), name="a book", max_tokens=count)


@pytest.fixture(scope="module")
def report():
    haystack = Haystack.repeat(byte_tokenizer())
    return report_on(infini_model(), byte_tokenizer(), haystack, text, SCALE, name="dir/tiny", found=Found())


@pytest.fixture
def page(report):
    def page(*changes):
        return Page(model_page([report | change for change in changes or [{}]], ENVIRONMENT, ["infini", "report"]))

    return page


class TestMeasuring:
    def test_all_parts(self, report):
        assert report["facts"]["parameters"] == sum(p.numel() for p in infini_model().parameters())
        assert (report["facts"]["family"], report["facts"]["layers_with_memory"]) == ("llama", 2)
        assert report["inspect"]["marks"]
        assert report["perplexity"]["tokens"] == 599
        assert report["perplexity"]["difference"] is not None
        on, off = report["recall"]
        assert [cell["length"] for cell in on["cells"]] == [256, 256, 512, 512]
        assert (off["memory"], [cell["length"] for cell in off["cells"]]) == ("off", [256, 256])

    def test_what_is_found_is_not_measured(self, report):
        cells = [{"length": 64, "depth": 0.0, "hits": 3, "answers": 4, "outside_window": 4}]
        found = Found(
            passkey=[{"haystack": "book", "memory": "on", "needle": True, "cells": cells, "file": "p.json"}],
            perplexity=[report["perplexity"] | {"file": "l.json"}],
            inspect=[report["inspect"] | {"file": "i.json"}],
        )

        def never(what):
            raise AssertionError(what)

        again = report_on(
            infini_model(),
            byte_tokenizer(),
            Haystack.repeat(byte_tokenizer()),
            text,
            Scale.of(SEGMENT),
            name="tiny",
            found=found,
            progress=never,
        )
        assert again["recall"][0]["accuracy"] == 0.75
        page = Page(model_page([again], ENVIRONMENT, ["infini"]))
        assert [name for name in ("p.json", "l.json", "i.json") if name in page.text] == ["p.json", "l.json", "i.json"]
        assert "measured now" not in page.text

    def test_how_much(self):
        small, quick = Scale.of(1024), Scale.of(1024, quick=True)
        assert (small.lengths, quick.lengths) == ((4096, 16384), (4096,))
        assert Scale.of(64, quick=True).lengths == (2048,)
        assert quick.depths * quick.samples < small.depths * small.samples
        assert small.replace(depths=9, samples=None) == Scale(small.tokens, small.text_tokens, small.lengths, 9, 2)


@pytest.fixture(scope="module")
def plain():
    """A base model as it is, which was made for 300 tokens."""
    model = base_model()
    model.config.max_position_embeddings = 300
    haystack = Haystack.repeat(byte_tokenizer())
    return report_on(model, byte_tokenizer(), haystack, text, SCALE, name="dir/base", found=Found())


class TestPlain:
    """Models without a memory, measured as far as they go and shown beside those that have one."""

    def test_nothing_longer_than_it_was_made_for(self, plain):
        assert plain["limit"] == plain["facts"]["trained_length"] == 300
        [recall] = plain["recall"]  # there is no memory to switch off
        assert [cell["length"] for cell in recall["cells"]] == [256, 256, 300, 300]
        assert (plain["perplexity"]["tokens_read"], [*plain["perplexity"]["memory"]]) == (300, ["on"])
        assert SCALE.up_to(None) == SCALE.up_to(600) == SCALE

    def test_its_cache(self, plain):
        seen = plain["inspect"]
        assert (seen["layers"], seen["retention"], seen["recall"]) == ([], [], None)
        assert seen["full_kv_bytes_per_token"] == 256  # keys and values, 2 layers, 2 heads, 8 numbers of 4 bytes
        assert all(mark["state_bytes"] == 256 * mark["tokens"] for mark in seen["marks"])
        assert [mark["tokens"] for mark in seen["marks"][-2:]] == [288, 300]
        assert seen["metrics"]["compression"] == {"with_window": 1, "without_window": None}
        assert seen["metrics"]["memory_complexity"]["constant"] is False
        assert seen["metrics"]["throughput"]["tokens_per_second"] > 0

    def test_beside_a_memory(self, report, plain):
        found = Page(model_page([report, plain], ENVIRONMENT, ["infini", "report"]))
        metrics, bytes_ = found.cells("metrics"), found.cells("bytes")
        assert metrics[:3] == ["metric", "tiny", "base (full attention)"]
        assert metrics[5] == "76.8 kB after 300 tokens, and growing"
        assert metrics[11] == "-"
        assert metrics[17] == "no memory: full attention"
        assert bytes_[2:5] == ["the state, after any number of tokens", "6.2 kB", "grows"]
        assert bytes_[7] == "4.2 MB"  # 16K tokens of 256 bytes
        assert "full attention" in found.cells("recall")
        assert "base (full attention) was made for texts of 300 tokens: nothing longer was measured now." in found.text
        assert "base (full attention) has no memory to look into: it has no part" in found.text
        assert [tag for tag, _ in found.elements].count("details") == 1
        # of both recall, loss and bytes; of the memory rank, share, retention, gates and their share
        assert [tag for tag, _ in found.elements].count("svg") == 2 + 1 + 1 + 3 + 2
        found.assert_needs_nothing()

    def test_alone(self, plain):
        found = Page(model_page([plain], ENVIRONMENT, ["infini", "report"]))
        assert [tag for tag, _ in found.elements].count("svg") == 3
        assert "details" not in found.tags

    def test_a_state_of_its_own(self):
        torch.manual_seed(0)
        config = MambaConfig(vocab_size=257, hidden_size=16, state_size=4, num_hidden_layers=2, use_cache=True)
        haystack, scale = Haystack.repeat(byte_tokenizer()), Scale(64, 80, (256,), depths=1, samples=1)
        model = MambaForCausalLM(config).eval()
        report = report_on(model, byte_tokenizer(), haystack, text, scale, name="mamba", found=Found())
        assert (report["limit"], report["inspect"]["full_kv_bytes_per_token"]) == (None, None)
        assert report["inspect"]["metrics"]["memory_complexity"]["constant"] is True
        found = Page(model_page([report], ENVIRONMENT, ["infini", "report"]))
        assert "no memory: a state of its own" in found.cells("metrics")
        assert found.cells("bytes")[3:5] == ["a full cache of 16K tokens", "-"]


class TestPage:
    def test_it_needs_nothing_else(self, page):
        found = page()
        found.assert_needs_nothing()
        assert found.tags >= {"svg", "table", "details"}
        assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in found.elements
        assert ("meta", {"name": "generator", "content": "infini report"}) in found.elements
        assert "prefers-color-scheme: dark" in found.source
        assert len([tag for tag, _ in found.elements if tag == "svg"]) == 8

    def test_it_shows_what_was_measured(self, page, report):
        found = page()
        metrics = found.cells("metrics")
        assert metrics[:2] == ["metric", "tiny"]
        assert metrics[2::2] == [
            "memory complexity",
            "sequence length",
            "compression",
            "throughput",
            "attention quality",
            "memory update efficiency",
        ]
        assert metrics[3].startswith("6.2 kB, the same after ")
        assert f"of {report['inspect']['recall']['asked']} questions about one planted key" in metrics[11]
        recall = found.cells("recall")
        assert recall[8:13] == ["repeat", "on", "256, 512", "4", "0 %"]
        assert recall[16:20] == ["repeat", "off", "256", "2"]
        for words in ("What tiny remembers", "dir/tiny", "599 tokens of a book", "16 tokens", "c0ffee", "torch 9.9"):
            assert words in found.text, words
        assert report["facts"]["fingerprint"][:12] in found.text

    def test_every_head_is_in_a_table(self, page, report):
        cells = [text for path, text in page().texts if ("details", None) in path and path[-1][0] in {"td", "th"}]
        assert len(cells) == 10 * (1 + 2 * 2)  # a head, then layers x key/value heads
        assert f"{report['inspect']['layers'][1]['effective_rank'][1]:.3g}" in cells

    def test_several_models_side_by_side(self, page):
        found = page({}, {"name": "other/one"})
        assert found.cells("metrics")[:3] == ["metric", "tiny", "one"]
        assert found.cells("facts")[:4] == ["tiny", "one", "name", "dir/tiny"]
        assert "What tiny and one remember" in found.text
        found.assert_needs_nothing()

    def test_models_of_the_same_name(self, page):
        assert page({}, {"name": "other/tiny"}).cells("metrics")[:3] == ["metric", "1: dir/tiny", "2: other/tiny"]

    def test_nothing_is_taken_for_html(self, page, report):
        found = page({"name": HOSTILE, "perplexity": report["perplexity"] | {"file": HOSTILE}})
        found.assert_needs_nothing()
        assert HOSTILE in found.text

    def test_without_matplotlib(self, page, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        found = page()
        assert "svg" not in found.tags
        assert "No pictures: a picture needs matplotlib: pip install 'infini-attention[plot]'" in found.text
        assert found.cells("recall")
        found.assert_needs_nothing()


class TestVerdict:
    def test_with_its_control(self):
        on = {"memory": "on", "needle": True, "answers": 4, "cells": [{"hits": 3}], "worst_cell": {"exact": 0.5}}
        off = on | {"memory": "off", "cells": [{"hits": 0}]}
        assert (
            verdict({"recall": [on, off]})
            == "75.0 % of 4 keys recalled, worst cell 50.0 %; with the memory off 0 % of 4."
        )
        assert verdict({"recall": [on]}) == "75.0 % of 4 keys recalled, worst cell 50.0 %."
        assert verdict({"recall": [off]}) == "Recall was not measured."


@pytest.mark.slow
@pytest.mark.browser
def test_it_can_be_read_in_a_browser(report, tmp_path):
    """Nothing is wider than a phone, and all text, that of the pictures too, stands out from what is behind it."""
    path, asked = tmp_path / "report.html", []
    path.write_text(model_page([report, report | {"name": "other/one"}], ENVIRONMENT, ["infini", "report"]))
    with sync_playwright() as playwright, launch(playwright) as browser:
        page = browser.new_page(bypass_csp=True)
        page.on("request", lambda request: asked.append(request.url))
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 740})
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            boxes = page.evaluate("[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().toJSON())")
            assert len(boxes) > 8
            assert all(box["left"] >= 0 and 0 < box["right"] <= width and box["height"] > 0 for box in boxes)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate(CONTRAST) > 4.5, (width, scheme)
    assert set(asked) == {path.as_uri()}
