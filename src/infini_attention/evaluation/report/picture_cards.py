"""Pictures on their own, for a page, and all of them in one file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.report import memory_pictures as pictures
from infini_attention.evaluation.report.heat_map import check_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
CARD = (4.6, 3.3)  # inches: fits a phone without its text becoming too small to read
OF_MEMORIES = (pictures.utilisation, pictures.share, pictures.retention)
OVER_STREAM = (*OF_MEMORIES, pictures.footprint)


def card(draw: "Callable[[Axes], None]", *, height: float = CARD[1]) -> "Figure":
    """A picture of its own. Raises `ConfigError` where matplotlib is not installed."""
    check_matplotlib("a picture")
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    figure = Figure(figsize=(CARD[0], height), dpi=120, layout="constrained")
    draw(figure.subplots())
    return figure


def heads_height(layers: Sequence[Record]) -> float:
    """Of a card with `heads`, in inches: as many rows as there are layers."""
    return max(CARD[1] * 0.75, 1.2 + 0.14 * len(layers))


def save_overview(result: Record, path: Path) -> None:
    """Writes all that one result of `summarize` shows as a PNG or SVG.

    Raises:
        ConfigError: matplotlib is not installed, or another kind of file.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    streams, layers = {Path(result["model"]).name: result}, result["layers"]
    figure = Figure(figsize=(11, 7.2 + heads_height(layers)), dpi=120, layout="constrained")
    fields = figure.subplots(3, 2, height_ratios=(heads_height(layers), CARD[1], CARD[1])).flat
    for name, axes in zip(("gate", "memory_share"), fields, strict=False):
        pictures.heads(axes, layers, name)
    for draw, axes in zip(OVER_STREAM, list(fields), strict=True):
        draw(axes, streams)
    figure.suptitle(f"{Path(result['model']).name} · {result['rule']} · segment {result['segment_size']:,}")
    figure.savefig(path, format=path.suffix[1:].lower())


def check_picture(path: Path) -> None:
    """Raises `ConfigError` unless a picture of that name can be drawn. Called before the work, not after it."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--plot must end in {' or '.join(SUFFIXES)}; got {path.name!r}")
    check_matplotlib("a picture")
