"""From marks and probes to the six metrics of Infini-attention, and the curve of forgetting."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from infini_attention.monitor.states import Record


def retention(probes: Iterable[Record]) -> list[Record]:
    """The curve of forgetting: how well values are read back, by the segments that were finished since.

    Args:
        probes: records of `ProbeSet.ask`.

    Returns:
        A record per age of 1, 2 to 3, 4 to 7, ... segments: segments (the mean age), cosine and control (means over all
        heads and answers; None where nothing was written), probes (how many were asked), and layers: for each the mean
        `cosine` per key/value head.
    """
    ages: dict[int, list[Record]] = defaultdict(list)
    for record in probes:
        ages[record["segments"].bit_length()].append(record)
    return [_of_age(records) for _, records in sorted(ages.items())]


def _of_age(records: Sequence[Record]) -> Record:
    columns = list(zip(*(record["cosine"] for record in records), strict=True))  # by layer, then by record
    layers = [[mean(answers) for answers in zip(*column, strict=True)] for column in columns]
    return {
        "segments": mean([record["segments"] for record in records]),
        "cosine": mean(_all_heads(records, "cosine")),
        "control": mean(_all_heads(records, "control")),
        "probes": sum(record["probes"] for record in records),
        "layers": [
            {"layer": layer, "cosine": cosine} for layer, cosine in zip(records[0]["layers"], layers, strict=True)
        ],
    }


def _all_heads(records: Iterable[Record], name: str) -> list[float | None]:
    return [answer for record in records for heads in record[name] for answer in heads]


def six_metrics(
    marks: Sequence[Record],
    probes: Iterable[Record],
    *,
    full_kv_bytes_per_token: int | None,
    recall: Record | None = None,
    now: Record | None = None,
) -> Record:
    """What a stream says about its memory.

    Args:
        marks: of `Collector`, at least one unless there is `now`.
        probes: of `Collector`.
        full_kv_bytes_per_token: what full attention would keep for a token; None for a model that has none.
        recall: of a planted key, with at least `asked`, `hits`, `hits_memory_off` and `longest` (tokens between the key
            and the last question that was answered); None where none was planted.
        now: `stream_figures` of the stream that is meant, where the marks are of a fork that reads on; None means the
            last mark.

    Returns:
        memory_complexity: `state_bytes` now, `at_tokens` of the first and the last place where they were measured, and
            whether they are always the same (`constant`; None for a single place).
        sequence_length: `tokens_seen`, and `verified`: the longest distance over which the key was recalled, in tokens.
        compression: bytes of a full key-value cache by those that stand for it, `with_window`: all tokens by the whole
            state, and `without_window`: the tokens that are in the memory alone by the bytes of the memories (None
            without any).
        throughput: `tokens_per_second` between the last two marks (see `rates`), and `slope`: by how much of their mean
            the rates change over the stream, along the straight line that fits them best, with its standard error
            `slope_se` (both None for fewer than three rates).
        attention_quality: `recall` and `recall_memory_off`: shares of the questions `asked`, and `memory_share` of the
            output's energy, in the mean over all heads of the last mark that has it.
        memory_update_efficiency: what `retention` says, without its layers.
    """
    places = ([] if now is None else [now]) + [*marks]
    now = marks[-1] if now is None else now
    asked = recall["asked"] if recall else 0
    curve = [{name: place[name] for name in place if name != "layers"} for place in retention(probes)]
    return {
        "memory_complexity": {
            "state_bytes": now["state_bytes"],
            "at_tokens": [places[0]["tokens"], places[-1]["tokens"]],
            "constant": len({place["state_bytes"] for place in places}) == 1 if len(places) > 1 else None,
        },
        "sequence_length": {"tokens_seen": now["tokens"], "verified": recall["longest"] if recall else None},
        "compression": _compression(now, full_kv_bytes_per_token),
        "throughput": _throughput(marks),
        "attention_quality": {
            "recall": recall["hits"] / asked if recall and asked else None,
            "recall_memory_off": recall["hits_memory_off"] / asked if recall and asked else None,
            "asked": asked,
            "memory_share": mean(given for layer in seen(marks) for given in layer["memory_share"]),
        },
        "memory_update_efficiency": curve,
    }


def seen(marks: Sequence[Record]) -> list[Record]:
    """The layers of the last mark whose pass was looked at; none where there is no such mark."""
    looked = [mark["layers"] for mark in marks if any(layer["gate"] is not None for layer in mark["layers"])]
    return looked[-1] if looked else []


def current_layers(marks: Sequence[Record]) -> list[Record]:
    """The layers of the last mark; what its pass was not looked at for is that of the last one that was."""
    before = {layer["layer"]: layer for layer in seen(marks)}
    layers = []
    for layer in marks[-1]["layers"]:
        missing = {name: value for name, value in before.get(layer["layer"], {}).items() if layer.get(name) is None}
        layers.append(layer | missing)
    return layers


def rates(marks: Sequence[Record]) -> list[tuple[float, float]]:
    """Between neighbouring marks: the place half way, in tokens, and tokens per second.

    A last piece less than half as long as the one before is left out: it tells what a pass costs, and not the rate.
    """
    found, lengths = [], []
    for left, right in pairwise(marks):
        tokens, seconds = (right[name] - left[name] for name in ("tokens", "seconds"))
        if tokens > 0 and seconds > 0:
            found.append(((left["tokens"] + right["tokens"]) / 2, tokens / seconds))
            lengths.append(tokens)
    return found[:-1] if len(found) > 1 and 2 * lengths[-1] < lengths[-2] else found


def _compression(now: Record, per_token: int | None) -> Record:
    compressed = now["tokens"] - now["tokens_in_window"]
    return {
        "with_window": None if per_token is None else now["tokens"] * per_token / now["state_bytes"],
        "without_window": compressed * per_token / now["memory_bytes"] if per_token and now["memory_bytes"] else None,
    }


def _throughput(marks: Sequence[Record]) -> Record:
    speeds, slope, error = rates(marks), None, None
    if len(speeds) > 2:
        places, values = zip(*speeds, strict=True)
        line, scale = statistics.linear_regression(places, values), (places[-1] - places[0]) / statistics.fmean(values)
        misses = sum((value - line.slope * place - line.intercept) ** 2 for place, value in speeds)
        slope = line.slope * scale
        error = math.sqrt(misses / (len(speeds) - 2) / len(speeds)) / statistics.pstdev(places) * scale
    return {"tokens_per_second": speeds[-1][1] if speeds else None, "slope": slope, "slope_se": error}


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None without any."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
