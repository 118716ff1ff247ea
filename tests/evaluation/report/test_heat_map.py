"""Heat maps that show what was measured."""

import numpy as np
import pytest

from infini_attention.errors import ConfigError
from infini_attention.evaluation.report.heat_map import heat_map, short


@pytest.fixture
def records():
    """Green at short lengths, red at long ones."""
    return [
        {"length": length, "depth": depth, "exact": float(length < 10_000)}
        for length in (4096, 16384, 1 << 20)
        for depth in (0.0, 0.5, 1.0)
    ]


def test_red_and_green_where_they_belong(records, tmp_path):
    from PIL import Image

    heat_map(records, tmp_path / "map.png", axis="depth", title="a title")
    pixels = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int)
    red, green, _ = np.moveaxis(pixels, 2, 0)
    columns = np.arange(pixels.shape[1])
    reddish, greenish = (red > green + 100), (green > red + 80)
    body = columns < pixels.shape[1] * 0.7  # without the colour bar
    assert greenish[:, body].sum() > 2000
    assert reddish[:, body].sum() > 2000
    mean = [(mask[:, body] * columns[body]).sum() / mask[:, body].sum() for mask in (greenish, reddish)]
    assert mean[0] < mean[1]


@pytest.mark.parametrize("count", [1, 3, 9])
def test_any_number_of_cells(records, tmp_path, count):
    path = tmp_path / "map.png"
    heat_map(records[:count], path, axis="depth", title="")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib(records, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'infini-attention\[plot\]'"):
        heat_map(records, tmp_path / "map.png", axis="depth", title="")


@pytest.mark.parametrize(
    ("count", "text"),
    [(4096, "4K"), (1 << 20, "1M"), (50 << 20, "50M"), (1000, "1000"), (1536, "1536"), (131072, "128K")],
)
def test_short(count, text):
    assert short(count) == text
