"""The curve of forgetting: keys are written once, text streams on, and forks of the stream are asked for them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.data.retention import written_keys
from infini_attention.data.seeds import evaluation_rng
from infini_attention.evaluation.journal import Journal, Record
from infini_attention.evaluation.pieces import whole_segments
from infini_attention.evaluation.recall import recall
from infini_attention.evaluation.stats import wilson_interval
from infini_attention.evaluation.stream import Subject, read_span
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.passkey import check_counts
from infini_attention.models.config import DEFAULT_SEGMENT_SIZE

NAME, AXIS = "retention", "segments"
PROTOCOL = 1


@dataclass(frozen=True)
class RetentionTask:
    """A number of streams, each asked at every distance.

    Attributes:
        tokenizer, haystack, samples, seed, memory: as in `PasskeyTask`; a sample is a stream.
        segments: distances, in whole segments of text between the one in which the last key ends and the question.
        keys: written at the start of each stream.
        with_needle: False leaves them out: a control.

    Raises:
        ConfigError: a count below 1, or none.
        InputError: more keys than names.
    """

    tokenizer: PreTrainedTokenizerBase
    haystack: Haystack
    segments: tuple[int, ...]
    keys: int = 8
    samples: int = 20
    seed: int = 0
    memory: bool = True
    with_needle: bool = True

    def __post_init__(self) -> None:
        check_counts(segments=self.segments, keys=self.keys, samples=self.samples)
        written_keys(self.tokenizer, self.keys, evaluation_rng(self.seed, NAME))  # what cannot be is known at once

    def key(self, index: int, unit: int) -> Record:
        """All that the result of a stream depends on, but for the model."""
        return {
            "task": NAME,
            "protocol": PROTOCOL,
            "sample": index,
            "keys": self.keys,
            AXIS: sorted(set(self.segments)),
            "unit": unit,
            "seed": self.seed,
            "haystack": self.haystack.name,
            "haystack_digest": self.haystack.digest,
            "memory": "on" if self.memory else "off",
            "needle": self.with_needle,
        }


def unit_of(subject: Subject) -> int:
    """Tokens of a segment; a model without segments is asked at the distances of one that has the default ones."""
    return subject.segment_size or DEFAULT_SEGMENT_SIZE


def most_tokens(task: RetentionTask, subject: Subject) -> int:
    """About as many are read of each stream."""
    return (max(task.segments) + 1) * unit_of(subject)


def run_retention(
    task: RetentionTask,
    subject: Subject,
    journal: Journal,
    *,
    on_sample: Callable[[int, int, int], None] = lambda done, of, tokens: None,
) -> list[Record]:
    """A record for each stream, those that the journal had included.

    Args:
        task: says what is written and asked.
        subject: reads.
        journal: what was run before.
        on_sample: called after each stream with the streams done, their number, and the tokens read.
    """
    unit = unit_of(subject)
    keys = [task.key(index, unit) | {"fingerprint": subject.about["fingerprint"]} for index in range(task.samples)]
    due = [(index, key) for index, key in enumerate(keys) if journal.find(key) is None]
    tokens = 0
    for done, (index, key) in enumerate(due, 1):
        start = time.perf_counter()
        record, read = _stream(task, subject, index)
        record["seconds"] = round(time.perf_counter() - start, 3)
        journal.append(key | record | subject.about)
        tokens += read
        on_sample(done, len(due), tokens)
    found = [journal.find(key) for key in keys]
    return [record for record in found if record is not None]


def _stream(task: RetentionTask, subject: Subject, index: int) -> tuple[Record, int]:
    """What one stream says at every distance, and how many tokens were read of it."""
    unit = unit_of(subject)
    rng = evaluation_rng(task.seed, NAME, task.haystack.name, task.keys, index)
    written = written_keys(task.tokenizer, task.keys, rng, with_needle=task.with_needle)
    border = -(-len(written.token_ids) // unit) * unit  # of the segment in which the last key ends
    places = [border + distance * unit for distance in sorted(set(task.segments))]
    ids = torch.cat([written.token_ids, task.haystack.cut(places[-1] - len(written.token_ids), rng)])[None]
    piece_size = whole_segments(subject.piece_tokens, unit)
    stream, start, hits = subject.open_stream(), 0, []
    for place in places:
        read_span(stream, ids, start, place, piece_size)
        start = place
        asked = (
            recall(stream.fork(), [question], memory=task.memory, piece_size=piece_size)
            for question in written.questions
        )
        hits.append(sum(int(outcome.hits.sum()) for outcome in asked))
    outside = subject.segment_size is not None and task.with_needle  # a segment away, the longest overlap
    return {"hits": hits, "places": places, "outside_window": outside, "state_bytes": stream.nbytes}, start


def summarize_retention(records: Sequence[Record]) -> Record:
    """The figures over all streams.

    Returns:
        as `summary.summarize` with a cell for each distance, which has its `interval` and, as `length`, the tokens
        before the question (of the longest stream); curve, the same as segments, tokens, exact and interval.
    """
    first, cells = records[0], []
    for column, distance in enumerate(first[AXIS]):
        hits, answers = sum(record["hits"][column] for record in records), first["keys"] * len(records)
        cell: dict[str, Any] = {
            "length": max(record["places"][column] for record in records),
            AXIS: distance,
            "hits": hits,
            "answers": answers,
            "exact": hits / answers,
            "interval": list(wilson_interval(hits, answers)),
            "samples": len(records),
            "outside_window": answers if first["outside_window"] else 0,
            "memory": first["memory"],
            "state_bytes": max(record["state_bytes"] for record in records),
            "seconds": 0.0,  # a stream is read once for all distances
        }
        cells.append(cell)
    curve = [
        {AXIS: cell[AXIS], "tokens": cell[AXIS] * first["unit"]} | {name: cell[name] for name in ("exact", "interval")}
        for cell in cells
    ]
    result = summarize(cells, AXIS) | {"unit": first["unit"], "curve": curve}
    return result | {"seconds": round(sum(record["seconds"] for record in records), 3)}
