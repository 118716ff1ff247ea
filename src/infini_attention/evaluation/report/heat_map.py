"""Heat maps of recall: length across, red (nothing) to green (everything)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heat_map(records: Sequence[Record], path: Path, *, axis: str, title: str) -> None:
    """Writes `recall_figure` as a PNG. Raises `ConfigError` where matplotlib is not installed."""
    recall_figure(records, axis=axis, title=title).savefig(path, format="png")


def recall_figure(records: Sequence[Record], *, axis: str, title: str = "") -> "Figure":
    """One field per record, its length (log) by its `axis`.

    Args:
        records: one per cell.
        axis: `depth`, `keys` or `subtask`.
        title: above it.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    lengths, rows = (sorted({record[name] for record in records}) for name in ("length", axis))
    shares = {(record[axis], record["length"]): record["exact"] for record in records}
    figure = Figure(figsize=(max(4.5, 2 + 0.8 * len(lengths)), 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    field = axes.pcolormesh(
        _log_edges(lengths),
        [number - 0.5 for number in range(len(rows) + 1)],
        [[shares.get((row, length), math.nan) for length in lengths] for row in rows],
        cmap="RdYlGn",
        vmin=0,
        vmax=1,
        edgecolors="white",
        linewidth=0.5,
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [short(length) for length in lengths])
    axes.set_xticks([], minor=True)
    step = -(-len(rows) // 11)
    axes.set_yticks(range(0, len(rows), step), [f"{row:.0%}" if axis == "depth" else str(row) for row in rows[::step]])
    axes.invert_yaxis()  # the beginning of the text stands at the top
    axes.set(xlabel="length (tokens)", ylabel="depth of the needle" if axis == "depth" else axis, title=title)
    label = "expected strings written" if axis == "subtask" else "exact answers"
    figure.colorbar(field, ax=axes, label=label, format="{x:.0%}")
    return figure


def check_matplotlib(what: str = "a heat map") -> None:
    """Raises `ConfigError` where `what` cannot be drawn. Called before the work, not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what} needs matplotlib: pip install 'infini-attention[plot]'") from error


def short(count: int) -> str:
    """131072 as 128K (K = 1024)."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "K")):
        if count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def _log_edges(lengths: Sequence[int]) -> list[float]:
    """Borders between the fields of a log axis: the geometric means of neighbours."""
    inner = [math.sqrt(left * right) for left, right in pairwise(lengths)]
    first = lengths[0] ** 2 / inner[0] if inner else lengths[0] / 2
    last = lengths[-1] ** 2 / inner[-1] if inner else lengths[-1] * 2
    return [first, *inner, last]
