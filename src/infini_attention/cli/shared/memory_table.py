"""What a memory holds, as tables for a terminal and as lines."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from infini_attention.cli.shared.common import human_bytes

Layer = dict[str, Any]

WIDTH = 140  # where the output is no terminal
COLUMNS = {
    "gate": "gate",
    "memory_share": "memory's share",
    "effective_rank": "eff. rank",
    "utilisation": "utilisation",
    "norm": "norm",
    "write_strength": "write strength",
    "written": "written",
    "decay": "decay",
}
PER_QUERY_HEAD = ("gate", "memory_share")


def print_layers(layers: Sequence[Layer], retention: Sequence[dict[str, Any]]) -> None:
    """A row per layer and key/value head on stdout; gate and share of each of its query heads."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("layer", "head", *COLUMNS.values(), *(["read back"] if retention else [])):
        table.add_column(title, justify="right", overflow="fold")
    for number, layer in enumerate(layers):
        heads = len(layer["norm"])
        for head in range(heads):
            cells = [str(layer["layer"]), str(head)]
            for name in COLUMNS:
                values = layer[name] or []
                group = len(values) // heads if name in PER_QUERY_HEAD else 1
                cells.append(" ".join(_number(value) for value in values[head * group : (head + 1) * group]) or "-")
            if retention:
                ends = [retention[place]["layers"][number]["cosine"][head] for place in (0, -1)]
                cells.append(" to ".join(map(_number, ends)))
            table.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else WIDTH, file=sys.stdout, highlight=False).print(table)


def live_table(mark: dict[str, Any], layers: Sequence[Layer], rows: int) -> Table:
    """A row per layer, means over its heads; of more layers than there are rows, evenly spaced ones."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=f"memory after {mark['tokens']:,} tokens")
    for title in ("layer", *COLUMNS.values()):
        table.add_column(title, justify="right")
    step = -(-len(layers) // max(1, rows))
    for layer in layers[::step]:
        table.add_row(str(layer["layer"]), *(_number(_mean(layer[name])) for name in COLUMNS))
    return table


def metric_lines(metrics: dict[str, Any]) -> dict[str, str]:
    """The six metrics, a line each."""
    return {name.replace("_", " "): line(metrics[name]) for name, line in LINES.items()}


def _complexity(memory: dict[str, Any]) -> str:
    constant = {True: "the same", False: "NOT the same", None: "measured once,"}[memory["constant"]]
    places = " and ".join(f"{tokens:,}" for tokens in dict.fromkeys(memory["at_tokens"]))
    return f"{human_bytes(memory['state_bytes'])}, {constant} after {places} tokens"


def _length(length: dict[str, Any]) -> str:
    verified = f"recalled over {length['verified']:,}" if length["verified"] else "no recall shown"
    return f"{length['tokens_seen']:,} tokens seen; {verified}"


def _compression(ratios: dict[str, Any]) -> str:
    return f"{ratios['with_window']:,.3g} : 1 with the window, {ratios['without_window']:,.3g} : 1 without"


def _throughput(speed: dict[str, Any]) -> str:
    if not speed["tokens_per_second"]:
        return "-"
    slope = "" if speed["slope"] is None else f", {speed['slope']:+.1%} (+-{speed['slope_se']:.1%}) over the stream"
    return f"{speed['tokens_per_second']:,.0f} tokens/s{slope}"


def _quality(quality: dict[str, Any]) -> str:
    given = f"the memory gives {_percent(quality['memory_share'])} of the output"
    if not quality["asked"]:
        return given
    on, off = (_percent(quality[name]) for name in ("recall", "recall_memory_off"))
    return f"{on} of {quality['asked']} questions about a planted key answered (memory off {off}); {given}"


def _efficiency(curve: list[dict[str, Any]]) -> str:
    kept = [place for place in curve if place["cosine"] is not None]
    if not kept:
        return "-"
    ends = kept[:1] if len(kept) == 1 else [kept[0], kept[-1]]
    places = ", ".join(f"{_number(place['cosine'])} after {place['segments']:.0f}" for place in ends)
    return f"read back (cosine) {places} segments; another value {_number(ends[-1]['control'])}"


LINES: dict[str, Callable[[Any], str]] = {
    "memory_complexity": _complexity,
    "sequence_length": _length,
    "compression": _compression,
    "throughput": _throughput,
    "attention_quality": _quality,
    "memory_update_efficiency": _efficiency,
}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 100 else f"{value:.1e}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _mean(values: Sequence[float | None] | None) -> float | None:
    known = [value for value in values or () if value is not None]
    return sum(known) / len(known) if known else None
