"""From the losses of segments to figures: perplexity, bits per byte, what the memory is worth, and where."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.perplexity.task import BLOCK_TOKENS, MODES
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.stats import batch_means

BLOCKS = 30  # at least so many, where there are as many segments
SIZES = ("tokens", "bytes", "words")
_BIT = math.log(2)  # in nats
_MOST_NATS = 700.0  # more would overflow exp

Columns = dict[str, Tensor]  # `SIZES`, and the nats of each mode: `[S]` float64, a number per segment, or per block


def summarize(texts: Sequence[Text], records: Sequence[Record]) -> Record:
    """The figures of a run.

    Every standard error is that of `batch_means` over blocks of whole segments of one text. The difference is on - off,
    block by block over the same tokens: its own error is far smaller than those of the two.

    Args:
        texts: what was read.
        records: of `measure`, in the same modes for each text.

    Returns:
        files (the following for each text), tokens_read, tokens (scored: all but the first of each text), bytes and
        words of these, blocks, memory (for each mode nats_per_token, bits_per_byte, perplexity and perplexity_per_word,
        each with its `_se`, seconds and tokens_per_second), difference (None without both modes); over all texts also
        positions, state_bytes, full_kv_bytes (of the longest text), seconds, and what the records say about the model.
    """
    about = {name: records[0][name] for name in ("fingerprint", "rule", "segment_size")}
    about["attention"] = records[0].get("attention", "infini")  # there was no other one in the first records
    about["trained_length"] = records[0].get("trained_length")
    by_text = [[record for record in records if record["digest"] == text.digest] for text in texts]
    tables = [_columns(of_text) for of_text in by_text]
    longest = max(len(text.token_ids) for text in texts)
    files = [
        {"file": text.name, "digest": text.digest, **_figures([table], of_text)}
        for text, table, of_text in zip(texts, tables, by_text, strict=True)
    ]
    return {
        "files": files,
        **_figures(tables, records),
        "positions": positions(tables, about["segment_size"] or BLOCK_TOKENS, longest),
        "state_bytes": max(record["state_bytes"] for record in records),
        "full_kv_bytes": max(record["full_kv_bytes"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 3),
        **about,
    }


def cost(texts: Sequence[Text], records: Sequence[Record], floating: Sequence[Record]) -> Record:
    """What the rounding of a model's weights costs it.

    Args:
        texts: what was read.
        records: of `measure`, of the model with rounded weights.
        floating: of the same texts in one of the modes, of the model as it was.

    Returns:
        memory (the mode), nats_per_token and bits_per_byte (how much more, each with its `_se`, block by block over the
        same tokens), perplexity (with and without the rounding).
    """
    mode = floating[0]["memory"]
    tables = []
    for text in texts:
        pair = [[each for each in of if each["digest"] == text.digest] for of in (records, floating)]
        tables.append(_columns(pair[0]) | {"floating": _columns(pair[1])[mode]})
    blocks = _blocks(tables)
    both = (_perplexities(nats, blocks)["perplexity"] for nats in (blocks[mode], blocks["floating"]))
    return {"memory": mode, **_losses(blocks[mode] - blocks["floating"], blocks), "perplexity": list(both)}


def positions(tables: Sequence[Columns], segment_size: int, longest: int) -> list[Record]:
    """Bits per byte by place in the stream, in bins that double: the first segment, the second, the next two, four ...

    No text is equally hard everywhere, so that the loss itself goes up and down. The difference does not see that:
    where it still falls, the memory's gain still grows.

    Args:
        tables: one per text.
        segment_size: in tokens; or of the blocks that stand for segments.
        longest: tokens of the longest text.
    """
    bins, first, segments = [], 0, max(len(table["tokens"]) for table in tables)
    while first < segments:
        stop = max(1, 2 * first)
        blocks = _blocks([{name: column[first:stop] for name, column in table.items()} for table in tables])
        place: Record = {"start": first * segment_size, "stop": min(stop * segment_size, longest), **_counts(blocks)}
        for name, nats in _series(blocks).items():
            place[name], place[f"{name}_se"] = batch_means(nats / _BIT, blocks["bytes"])
        bins.append(place)
        first = stop
    return bins


def _figures(tables: Sequence[Columns], records: Sequence[Record]) -> Record:
    blocks = _blocks(tables)
    series, memory, read = _series(blocks), {}, 0
    for mode in _modes(blocks):
        of_mode = [record for record in records if record["memory"] == mode]
        read, seconds = (sum(record[name] for record in of_mode) for name in ("tokens_read", "seconds"))
        speed = {"seconds": round(seconds, 3), "tokens_per_second": round(read / seconds, 1)}
        memory[mode] = _losses(series[mode], blocks) | _perplexities(series[mode], blocks) | speed
    difference = _losses(series["difference"], blocks) if "difference" in series else None
    return {"tokens_read": read, **_counts(blocks), "memory": memory, "difference": difference}


def _counts(blocks: Columns) -> dict[str, int]:
    return {name: int(blocks[name].sum()) for name in SIZES} | {"blocks": len(blocks["tokens"])}


def _losses(nats: Tensor, blocks: Columns) -> Record:
    figures: Record = {}
    for name, sums, sizes in (("nats_per_token", nats, "tokens"), ("bits_per_byte", nats / _BIT, "bytes")):
        figures[name], figures[f"{name}_se"] = batch_means(sums, blocks[sizes])
    return figures


def _perplexities(nats: Tensor, blocks: Columns) -> Record:
    """exp of a mean loss. Its standard error is that of the loss times the slope of exp, which is exp itself."""
    figures: Record = {}
    for name, sizes in (("perplexity", "tokens"), ("perplexity_per_word", "words")):
        loss, error = batch_means(nats, blocks[sizes])
        value = None if loss is None else math.exp(min(loss, _MOST_NATS))
        figures[name], figures[f"{name}_se"] = value, None if value is None or error is None else value * error
    return figures


def _columns(records: Sequence[Record]) -> Columns:
    """The sums of a text's segments. Tokens, bytes and words are the same in both modes."""
    columns = {name: records[0]["segments"][name] for name in SIZES}
    columns |= {record["memory"]: record["segments"]["nats"] for record in records}
    return {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}


def _blocks(tables: Sequence[Columns]) -> Columns:
    """Sums over runs of segments, as long as `BLOCKS` of them can be, and none across two texts."""
    run = max(1, sum(len(table["tokens"]) for table in tables) // BLOCKS)
    return {
        name: torch.stack([part.sum() for table in tables for part in table[name].split(run) if len(part)])
        for name in tables[0]
    }


def _modes(columns: Columns) -> list[str]:
    return [mode for mode in MODES if mode in columns]


def _series(blocks: Columns) -> Columns:
    """The nats of each mode, and the difference where there are both."""
    series = {mode: blocks[mode] for mode in _modes(blocks)}
    return series | ({"difference": blocks["on"] - blocks["off"]} if len(series) == len(MODES) else {})
