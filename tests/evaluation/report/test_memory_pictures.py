"""Pictures that show what was measured."""

import pytest

from evaluation.pages import Page
from infini_attention.errors import ConfigError
from infini_attention.evaluation.report import memory_pictures as pictures
from infini_attention.evaluation.report.page import inline_svg
from infini_attention.evaluation.report.picture_cards import card, check_picture, heads_height, save_overview


def layer(number, value=0.5, heads=2):
    figures = {name: [value] * heads for name in ("gate", "memory_share", "utilisation", "norm")}
    return {"layer": number, "effective_rank": [value * 32] * heads, **figures}


def result(model="a/model", layers=2, value=0.5, marks=3):
    stacked = [layer(number, value) for number in range(layers)]
    return {
        "model": model,
        "rule": "delta",
        "segment_size": 64,
        "full_kv_bytes_per_token": 1000,
        "layers": stacked,
        "marks": [{"tokens": 1000 * n, "state_bytes": 5000, "layers": stacked} for n in range(1, marks + 1)],
        "retention": [{"segments": n, "cosine": 1 / n, "control": 0.1} for n in (1, 2, 4)],
        "metrics": {"sequence_length": {"tokens_seen": 3000}, "memory_complexity": {"state_bytes": 5000}},
    }


def drawn(draw, *values):
    """The axes after drawing."""
    return card(lambda axes: draw(axes, *values)).axes[0]


def lines(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


class TestWhatIsDrawn:
    def test_a_line_per_layer_of_one_model(self):
        axes = drawn(pictures.utilisation, {"m": result()})
        assert lines(axes) == {f"layer {n}": ([1000, 2000, 3000], [0.5] * 3) for n in range(2)}

    def test_a_line_per_model_of_several(self):
        axes = drawn(pictures.share, {"one": result(), "two": result(value=0.25)})
        assert lines(axes) == {"one": ([1000, 2000, 3000], [0.5] * 3), "two": ([1000, 2000, 3000], [0.25] * 3)}

    def test_a_deep_model_has_one_line(self):
        assert lines(drawn(pictures.utilisation, {"m": result(layers=30)})).keys() == {"m"}

    def test_marks_that_saw_nothing_are_left_out(self):
        stream = result()
        stream["marks"][-1] = stream["marks"][-1] | {"layers": [layer(0) | {"memory_share": None}] * 2}
        assert lines(drawn(pictures.share, {"m": stream}))["layer 0"][0] == [1000, 2000]

    def test_retention_and_its_control(self):
        assert lines(drawn(pictures.retention, {"m": result()})) == {
            "m": ([1, 2, 4], [1, 0.5, 0.25]),
            "m: another value": ([1, 2, 4], [0.1] * 3),
        }

    def test_bytes(self):
        found = lines(drawn(pictures.footprint, {"m": result()}))
        assert found["m"] == ([1000, 2000, 3000], [0.005] * 3)
        assert found["m: full KV cache"] == ([250, 12000], [0.25, 12.0])

    def test_bytes_of_a_session_that_read_nothing_more(self):
        assert lines(drawn(pictures.footprint, {"m": result(marks=0)}))["m"] == ([3000], [0.005])

    def test_losses(self):
        places = [
            {"start": 0, "stop": 64, "on": 3.0, "on_se": None},
            {"start": 64, "stop": 128, "on": 2.0, "on_se": 0.1},
        ]
        axes = drawn(pictures.losses, {"m": places})
        [line] = [line for line in axes.get_lines() if len(line.get_ydata()) == 2 and line.get_linestyle() == "-"]
        assert list(line.get_ydata()) == [3.0, 2.0]

    def test_gates(self):
        stack = [layer(0, 0.0), layer(5, 1.0), layer(6) | {"gate": None}]
        axes = drawn(pictures.heads, stack, "gate")
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "5", "6"]
        values = axes.collections[0].get_array()
        assert values[:2].tolist() == [[0, 0], [1, 1]] and values[2].mask.all()
        assert heads_height(stack) < heads_height(stack * 20)


def test_on_a_page_text_is_text_and_legends_hide_nothing():
    for draw in (pictures.utilisation, pictures.share, pictures.retention, pictures.footprint):
        page = Page(inline_svg(card(lambda axes, draw=draw: draw(axes, {"<b>": result(), "other": result()}))))
        page.assert_needs_nothing()
        assert "<b>" in page.text


class TestOverview:
    @pytest.mark.parametrize("suffix", ["png", "svg", "PNG"])
    def test_all_of_it(self, tmp_path, suffix):
        path = tmp_path / f"all.{suffix}"
        save_overview(result(), path)
        assert path.read_bytes().startswith(b"<?xml" if suffix == "svg" else b"\x89PNG")

    def test_other_kinds(self, tmp_path):
        with pytest.raises(ConfigError, match=r"must end in \.png or \.svg; got 'all.gif'"):
            check_picture(tmp_path / "all.gif")

    def test_without_matplotlib(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        with pytest.raises(ConfigError, match=r"a picture needs matplotlib: pip install 'infini-attention\[plot\]'"):
            check_picture(tmp_path / "all.png")
