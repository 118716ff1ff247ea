"""Figures of made-up segments, worked out by hand; and the curve that is drawn of them."""

import math
from statistics import stdev

import pytest

from infini_attention.errors import ConfigError
from infini_attention.evaluation.perplexity.figures import summarize
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.report.loss_curve import position_curve, position_figure
from tiny import byte_tokenizer

SIZE = 4  # tokens per segment
BIT = math.log(2)


def text_of(segments, name="a text"):
    """So many whole segments, each text another one."""
    return Text.from_blocks([f"{name}: {'ab ' * 400}"], byte_tokenizer(), name=name, max_tokens=segments * SIZE)


def record(text, mode, nats, *, tokens=SIZE, nbytes=2 * SIZE, words=2, seconds=2.0):
    """One of `measure`, with the same size for each segment."""
    count = len(nats)
    return {
        "digest": text.digest,
        "memory": mode,
        "tokens_read": count * SIZE,
        "segments": {"tokens": [tokens] * count, "bytes": [nbytes] * count, "words": [words] * count, "nats": nats},
        "state_bytes": 1000,
        "full_kv_bytes": 10 * count,
        "seconds": seconds,
        "fingerprint": "f" * 64,
        "rule": "stub",
        "segment_size": SIZE,
    }


def mean(values):
    return sum(values) / len(values)


@pytest.fixture
def pair():
    """One text of eight segments, hard in its middle, and a gain that grows."""
    text = text_of(8)
    off = [8.0, 10.0, 12.0, 30.0, 28.0, 9.0, 8.0, 10.0]
    on = [nats - gain for nats, gain in zip(off, [0, 1, 1, 2, 3, 3, 3, 4], strict=True)]
    return text, on, off, summarize([text], [record(text, "on", on), record(text, "off", off)])


def test_losses_and_their_errors(pair):
    text, on, off, result = pair
    assert (result["tokens_read"], result["tokens"], result["bytes"], result["words"]) == (32, 32, 64, 16)
    assert result["blocks"] == 8
    for mode, nats in (("on", on), ("off", off)):
        figures = result["memory"][mode]
        for name, scale in (("nats_per_token", SIZE), ("bits_per_byte", 2 * SIZE * BIT)):
            assert figures[name] == pytest.approx(mean(nats) / scale)
            assert figures[f"{name}_se"] == pytest.approx(stdev(nats) / scale / math.sqrt(8))
        for name, scale in (("perplexity", SIZE), ("perplexity_per_word", 2)):
            assert figures[name] == pytest.approx(math.exp(mean(nats) / scale))
            assert figures[f"{name}_se"] == pytest.approx(figures[name] * stdev(nats) / scale / math.sqrt(8))
        assert (figures["seconds"], figures["tokens_per_second"]) == (2.0, 16.0)
    assert (result["state_bytes"], result["full_kv_bytes"], result["seconds"]) == (1000, 80, 4.0)
    assert (result["fingerprint"], result["rule"], result["segment_size"]) == ("f" * 64, "stub", SIZE)
    assert result["files"][0]["memory"] == result["memory"]
    assert (result["files"][0]["file"], result["files"][0]["digest"]) == ("a text", text.digest)


def test_the_difference_is_paired(pair):
    _, on, off, result = pair
    gains = [with_it - without for with_it, without in zip(on, off, strict=True)]
    difference = result["difference"]
    assert difference["bits_per_byte"] == pytest.approx(mean(gains) / (8 * BIT))
    assert difference["bits_per_byte_se"] == pytest.approx(stdev(gains) / (8 * BIT) / math.sqrt(8))
    assert difference["nats_per_token"] == pytest.approx(mean(gains) / SIZE)
    assert difference["bits_per_byte_se"] < result["memory"]["off"]["bits_per_byte_se"] / 3


def test_positions_double(pair):
    _, on, off, result = pair
    bins = result["positions"]
    assert [(place["start"], place["stop"]) for place in bins] == [(0, 4), (4, 8), (8, 16), (16, 32)]
    assert [place["tokens"] for place in bins] == [4, 4, 8, 16]
    assert [place["blocks"] for place in bins] == [1, 1, 2, 4]
    for place, part in zip(bins, (slice(0, 1), slice(1, 2), slice(2, 4), slice(4, 8)), strict=True):
        gains = [with_it - without for with_it, without in zip(on[part], off[part], strict=True)]
        for name, nats in (("on", on[part]), ("off", off[part]), ("difference", gains)):
            assert place[name] == pytest.approx(mean(nats) / (8 * BIT))
            error = stdev(nats) / (8 * BIT) / math.sqrt(len(nats)) if len(nats) > 1 else None
            assert place[f"{name}_se"] == (None if error is None else pytest.approx(error))
    assert bins[0]["difference"] == 0
    assert [round(place["difference"] * 8 * BIT, 6) for place in bins] == [0, -1, -1.5, -3.25]


def test_long_texts_are_cut_into_thirty_blocks():
    text = text_of(90)
    nats = [float(number % 7) for number in range(90)]
    result = summarize([text], [record(text, "on", nats)])
    sums = [sum(nats[start : start + 3]) for start in range(0, 90, 3)]
    assert result["blocks"] == 30
    assert result["memory"]["on"]["nats_per_token_se"] == pytest.approx(stdev(sums) / (3 * SIZE) / math.sqrt(30))
    assert [place["blocks"] for place in result["positions"]] == [1, 1, 2, 4, 8, 16, 32, 26]


def test_blocks_end_with_their_text():
    texts = [text_of(40, "one"), text_of(21, "two")]
    nats = [[float(n % 5) for n in range(40)], [9.0] * 21]
    result = summarize(texts, [record(text, "off", each) for text, each in zip(texts, nats, strict=True)])
    assert result["blocks"] == 20 + 11  # two segments each, and a last one alone
    assert (result["tokens"], result["tokens_read"]) == (61 * SIZE, 61 * SIZE)
    assert result["memory"]["off"]["nats_per_token"] == pytest.approx((sum(nats[0]) + 189) / (61 * SIZE))
    assert [each["tokens"] for each in result["files"]] == [40 * SIZE, 21 * SIZE]
    assert result["files"][1]["memory"]["off"]["nats_per_token_se"] == pytest.approx(0)
    assert result["full_kv_bytes"] == 400
    first, last = result["positions"][0], result["positions"][-1]
    assert (first["blocks"], first["off"]) == (2, pytest.approx((0 + 9) / 2 / (8 * BIT)))
    assert (last["start"], last["stop"], last["tokens"]) == (32 * SIZE, 40 * SIZE, 8 * SIZE)


def test_one_mode_alone(pair):
    text, on, *_ = pair
    result = summarize([text], [record(text, "on", on)])
    assert (list(result["memory"]), result["difference"]) == (["on"], None)
    assert not {"off", "difference"} & result["positions"][0].keys()


def test_where_there_is_nothing_to_divide_by(pair):
    text, on, *_ = pair
    result = summarize([text], [record(text, "on", [1000.0 * nats for nats in on], nbytes=0, words=0)])
    figures = result["memory"]["on"]
    assert (figures["bits_per_byte"], figures["perplexity_per_word"], result["positions"][0]["on"]) == (None,) * 3
    assert math.isfinite(figures["perplexity"])  # a float64 ends at exp(709)


class TestCurve:
    def test_what_is_drawn(self, pair):
        figure = position_figure(pair[3]["positions"], title="a title")
        upper, lower = figure.axes
        assert (upper.get_xscale(), lower.get_xscale()) == ("log", "log")
        bars = {bar.get_label(): bar for axes in (upper, lower) for bar in axes.containers}
        assert set(bars) == {"memory on", "memory off", "on - off"}
        for label, name in (("memory on", "on"), ("memory off", "off"), ("on - off", "difference")):
            assert bars[label][0].get_ydata().tolist() == [place[name] for place in pair[3]["positions"]]
        assert bars["on - off"][0].get_xdata().tolist() == pytest.approx([2**1.5, 2**2.5, 2**3.5, 2**4.5])
        [bars_up] = bars["memory on"][2]
        heights = [upper - lower for (_, lower), (_, upper) in bars_up.get_segments()]
        assert heights == pytest.approx([2 * (place["on_se"] or 0) for place in pair[3]["positions"]])

    def test_as_a_file(self, pair, tmp_path):
        for positions in (pair[3]["positions"], pair[3]["positions"][:1]):
            position_curve(positions, tmp_path / "position.png", title="")
            assert (tmp_path / "position.png").read_bytes().startswith(b"\x89PNG")

    def test_one_mode_alone(self, pair):
        text, on, *_ = pair
        figure = position_figure(summarize([text], [record(text, "on", on)])["positions"])
        assert [bar.get_label() for axes in figure.axes for bar in axes.containers] == ["memory on"]

    def test_without_matplotlib(self, pair, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        with pytest.raises(ConfigError, match=r"a picture needs matplotlib: pip install 'infini-attention\[plot\]'"):
            position_curve(pair[3]["positions"], tmp_path / "position.png", title="")
