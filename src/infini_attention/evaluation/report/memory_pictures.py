"""Pictures of what a memory holds and does, each drawn into given axes, so that it can stand alone or beside others.

`Streams` are results of `inspection.summarize` by the name that the legend shows.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from infini_attention.evaluation.journal import Record
from infini_attention.monitor.summary import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 8  # layers of one model that get a line each

Streams = Mapping[str, Record]


def heads(axes: "Axes", layers: Sequence[Record], name: str) -> None:
    """A field per layer and query head: `gate` or `memory_share`, from 0 to 1; empty where nothing was seen."""
    rows = [layer.get(name) or [] for layer in layers]
    width = max(1, *map(len, rows))
    values = [[math.nan if value is None else value for value in row] + [math.nan] * (width - len(row)) for row in rows]
    field = axes.pcolormesh(values, vmin=0, vmax=1, cmap="viridis", edgecolors="white", linewidth=0.3)
    step = -(-len(rows) // 10)
    axes.set_yticks([place + 0.5 for place in range(0, len(rows), step)], [str(r["layer"]) for r in layers[::step]])
    step = -(-width // 10)
    axes.set_xticks([place + 0.5 for place in range(0, width, step)], [str(head) for head in range(0, width, step)])
    axes.invert_yaxis()
    title = {"gate": "gate: weight of the memory", "memory_share": "share of the output that the memory gives"}
    axes.set(xlabel="query head", ylabel="layer", title=title[name])
    assert axes.figure is not None
    axes.figure.colorbar(field, ax=axes, format="{x:.0%}")


def utilisation(axes: "Axes", streams: Streams) -> None:
    """Effective rank as a share of the key size over the stream; the rank itself on the right for a single model."""
    _over_stream(axes, streams, "utilisation")
    axes.set(title="utilisation: effective rank / key size", ylabel="share of the directions")
    axes.set_ylim(0, 1)
    ranks = [
        (rank, share)
        for result in streams.values()
        for layer in result["layers"]
        for rank, share in zip(layer["effective_rank"], layer["utilisation"], strict=True)
        if share
    ]
    if len(streams) == 1 and ranks:
        size = round(ranks[0][0] / ranks[0][1])
        axes.secondary_yaxis("right", functions=(lambda y: y * size, lambda y: y / size)).set_ylabel("effective rank")


def share(axes: "Axes", streams: Streams) -> None:
    """The memory's share of the output's energy over the stream."""
    _over_stream(axes, streams, "memory_share")
    axes.set(title="share of the output that the memory gives", ylabel="share of the energy")
    axes.set_ylim(0, 1)


def retention(axes: "Axes", streams: Streams) -> None:
    """How well what was written is read back, by the segments since; dashed: compared with what another probe wrote."""
    for number, (name, result) in enumerate(streams.items()):
        for column, style, label in (("cosine", "-", name), ("control", "--", f"{name}: another value")):
            places = [place for place in result["retention"] if place[column] is not None]
            axes.plot(
                [place["segments"] for place in places],
                [place[column] for place in places],
                color=f"C{number}",
                linestyle=style,
                marker="o" if style == "-" else None,
                markersize=3.5,
                label=short_name(label),
            )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(title="retention: what is still read back", xlabel="segments since it was written", ylabel="cosine")
    axes.set_ylim(-0.1, 1.05)
    finish(axes)


def footprint(axes: "Axes", streams: Streams) -> None:
    """Bytes of the state, as measured at the marks, beside those of a key-value cache that keeps every token."""
    for number, (name, result) in enumerate(streams.items()):
        marks, per_token = result["marks"], result["full_kv_bytes_per_token"]
        tokens = [mark["tokens"] for mark in marks] or [result["metrics"]["sequence_length"]["tokens_seen"]]
        state = [mark["state_bytes"] for mark in marks] or [result["metrics"]["memory_complexity"]["state_bytes"]]
        axes.plot(
            tokens,
            [each / 1e6 for each in state],
            color=f"C{number}",
            marker="o",
            markersize=3.5,
            label=short_name(name),
        )
        if per_token is None:
            continue
        ends = [max(1, min(tokens) // 4), max(tokens) * 4]
        cache, label = [end * per_token / 1e6 for end in ends], short_name(f"{name}: full KV cache")
        axes.plot(ends, cache, color=f"C{number}", linestyle="--", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(title="bytes beside a growing KV cache", xlabel="tokens read", ylabel="MB")
    finish(axes)


def losses(axes: "Axes", positions: Mapping[str, Sequence[Record]]) -> None:
    """Bits per byte by position, of `perplexity_figures.summarize`; dashed: memory off; bars: standard errors."""
    for number, (name, places) in enumerate(positions.items()):
        for mode, style, label in (("on", "-", name), ("off", "--", f"{name}: memory off")):
            bins = [place for place in places if place.get(mode) is not None]
            if bins:
                axes.errorbar(
                    [math.sqrt((place["start"] or place["stop"] / 2) * place["stop"]) for place in bins],
                    [place[mode] for place in bins],
                    [place[f"{mode}_se"] or 0.0 for place in bins],
                    color=f"C{number}",
                    linestyle=style,
                    marker="o",
                    markersize=3,
                    capsize=2,
                    label=short_name(label),
                )
    axes.set_xscale("log")
    axes.set(title="loss by position", xlabel="position in the stream (tokens)", ylabel="bits per byte")
    finish(axes)


def _over_stream(axes: "Axes", streams: Streams, name: str) -> None:
    """A line per layer for one small model; else the mean over all heads, in the range of the heads."""
    for number, (model, result) in enumerate(streams.items()):
        marks = [mark for mark in result["marks"] if any(layer[name] is not None for layer in mark["layers"])]
        tokens = [mark["tokens"] for mark in marks]
        if len(streams) == 1 and len(result["layers"]) <= MOST_LINES:
            for index, layer in enumerate(result["layers"]):
                means = [_or_nan(mean(mark["layers"][index][name])) for mark in marks]
                axes.plot(tokens, means, marker="o", markersize=3, label=f"layer {layer['layer']}")
            continue
        values = [_known(value for layer in mark["layers"] for value in layer[name]) for mark in marks]
        colour = f"C{number}"
        axes.fill_between(tokens, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2)
        means = [_or_nan(mean(v)) for v in values]
        axes.plot(tokens, means, color=colour, marker="o", markersize=3, label=short_name(model))
    axes.xaxis.set_major_formatter(_in_thousands)
    axes.set_xlabel("tokens read")
    finish(axes)


def _in_thousands(tokens: float, _place: object = None) -> str:
    """12000 as 12k."""
    return f"{tokens / 1e6:g}M" if abs(tokens) >= 1e6 else f"{tokens / 1e3:g}k" if abs(tokens) >= 1e3 else f"{tokens:g}"


def finish(axes: "Axes") -> None:
    """A grid, and a legend where there is something to tell apart."""
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", framealpha=0)  # a white box would hide light text on a dark page


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None] or [math.nan]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def short_name(name: str) -> str:
    """What fits into a legend."""
    return name if len(name) <= 40 else f"…{name[-39:]}"
