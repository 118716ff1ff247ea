"""Curves of recall, each drawn into given axes, so that it can stand alone or beside others.

`Curves` are the `curve` of results by the name that the legend shows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.report.memory_pictures import finish, short_name
from infini_attention.evaluation.report.picture_cards import card

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Sequence[Record]]


def forgetting(axes: "Axes", curves: Curves) -> None:
    """Exact answers by the segments since the keys were written, with their 95 % intervals."""
    _lines(axes, {name: [(place["segments"], place) for place in curve] for name, curve in curves.items()})
    axes.set(title="what is still recalled", xlabel="segments since it was written")


def pairs(axes: "Axes", curves: Curves, chance: float | None = None) -> None:
    """Exact answers by the number of pairs, a line per length, with their 95 % intervals; dotted: chance."""
    lines = {}
    for name, curve in curves.items():
        for length in sorted({place["length"] for place in curve}):
            of_length = [(place["pairs"], place) for place in curve if place["length"] == length]
            lines[f"{name}: {length:,} tokens"] = of_length
    _lines(axes, lines)
    if chance is not None:
        axes.axhline(chance, color="gray", linestyle=":")
    axes.set(title="key-value pairs recalled", xlabel="pairs")


def save_forgetting(curve: Sequence[Record], path: Path, title: str) -> None:
    """Writes one curve as a PNG. Raises `ConfigError` where matplotlib is not installed."""
    figure = card(lambda axes: forgetting(axes, {title: curve}))
    figure.savefig(path, format="png")


def _lines(axes: "Axes", lines: Mapping[str, Sequence[tuple[int, Record]]]) -> None:
    """Shares by counts, which double from one to the next."""
    for number, (name, line) in enumerate(lines.items()):
        shares = [place["exact"] for _, place in line]
        axes.errorbar(
            [count for count, _ in line],
            shares,
            [
                [share - place["interval"][0] for share, (_, place) in zip(shares, line, strict=True)],
                [place["interval"][1] - share for share, (_, place) in zip(shares, line, strict=True)],
            ],
            color=f"C{number}",
            marker="o",
            markersize=3.5,
            capsize=2,
            label=short_name(name),
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(-0.05, 1.05)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylabel("exact answers")
    finish(axes)
