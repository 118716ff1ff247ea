"""The curve of loss against position."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.report.heat_map import check_matplotlib, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"on": "tab:green", "off": "tab:red", "difference": "tab:blue"}


def position_curve(positions: Sequence[Record], path: Path, *, title: str, full_attention: bool = False) -> None:
    """Writes `position_figure` as a PNG. Raises `ConfigError` where matplotlib is not installed."""
    position_figure(positions, title=title, full_attention=full_attention).savefig(path, format="png")


def position_figure(positions: Sequence[Record], *, title: str = "", full_attention: bool = False) -> "Figure":
    """Bits per byte by place in the stream (log), with the memory on and off; below them, if there are both, on - off.

    Args:
        positions: of `summarize`, one per bin; the bars are one standard error up and down.
        title: above it.
        full_attention: whether this is a plain model, which has no memory to be on.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    check_matplotlib("a picture")
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    groups: list[list[str]] = [[mode for mode in ("on", "off") if mode in positions[0]]]
    groups += [["difference"]] if "difference" in positions[0] else []
    figure = Figure(figsize=(7, 2.2 + 2.2 * len(groups)), dpi=120, layout="constrained")
    fields = figure.subplots(len(groups), squeeze=False, sharex=True)[:, 0]
    for axes, names in zip(fields, groups, strict=True):
        for name in names:
            label = "on - off" if name == "difference" else "full attention" if full_attention else f"memory {name}"
            bins = [place for place in positions if place[name] is not None]
            axes.errorbar(
                [_middle(place) for place in bins],
                [place[name] for place in bins],
                [place[f"{name}_se"] or 0.0 for place in bins],  # none where the bin is a single block
                label=label,
                color=_COLOURS[name],
                marker="o",
                markersize=3.5,
                capsize=3,
            )
        axes.set_ylabel("bits per byte" if len(names) > 1 or name != "difference" else "on - off")
        axes.grid(alpha=0.3)
        axes.legend()
    fields[0].set_title(title)
    if len(groups) > 1:
        fields[-1].axhline(0, color="black", linewidth=0.8)
    borders = [place["stop"] for place in positions]
    fields[-1].set_xscale("log", base=2)
    fields[-1].set_xticks(borders, [short(border) for border in borders], rotation=45)
    fields[-1].set_xticks([], minor=True)
    fields[-1].set_xlabel("position in the stream (tokens)")
    return figure


def _middle(place: Record) -> float:
    """Of a bin, on a log axis; the first one, which begins at 0, is drawn as wide as the second."""
    return math.sqrt((place["start"] or place["stop"] / 2) * place["stop"])
