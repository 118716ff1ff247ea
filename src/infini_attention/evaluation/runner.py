"""Runs the cells of a task: each is a number of samples that differ in nothing but their random numbers."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from infini_attention.data.recall import RecallSample
from infini_attention.evaluation.journal import Journal, Record
from infini_attention.evaluation.pieces import whole_segments
from infini_attention.evaluation.recall import Outcome
from infini_attention.evaluation.stream import Stream, Subject
from infini_attention.evaluation.trunk import Trunk


class Task(Protocol):
    """What a task says about itself.

    Attributes:
        name: of the task.
        samples: per cell.
        seed: of all samples.
    """

    name: ClassVar[str]

    @property
    def seed(self) -> int: ...

    @property
    def samples(self) -> int: ...

    def cells(self) -> Sequence[dict[str, Any]]:
        """What tells the cells apart, each with its `length` in tokens; short ones first."""
        ...

    def key(self, cell: dict[str, Any]) -> Record:
        """All that the result of a cell depends on, but for the model."""
        ...

    def sample(self, cell: dict[str, Any], index: int) -> RecallSample:
        """Sample `index` of a cell: always the same."""
        ...

    def ask(self, stream: Stream, samples: Sequence[Any], *, start: int, piece_size: int) -> Outcome:
        """Reads samples whose questions stand at the same places, and asks; `stream` has read `start` tokens."""
        ...


def run(
    task: Task,
    subject: Subject,
    journal: Journal,
    *,
    piece_tokens: int | None = None,
    on_sample: Callable[[int, int, int], None] = lambda done, of, tokens: None,
) -> list[Record]:
    """The records of all cells, those that the journal had included.

    Args:
        task: gives the samples.
        subject: reads them.
        journal: what was run before; a cell with the same key and the same model is not run again.
        piece_tokens: read at a time, over all rows of a batch; None means what suits the subject. Changes no result.
        on_sample: called after each batch with the samples done, their number, and the tokens read.
    """
    cells = [(task.key(cell) | {"fingerprint": subject.about["fingerprint"]}, cell) for cell in task.cells()]
    due = [(key, cell) for key, cell in cells if journal.find(key) is None]
    trunk = Trunk(subject.open_stream)
    piece_tokens = subject.piece_tokens if piece_tokens is None else piece_tokens
    done = tokens = 0
    drawn = ([task.sample(cell, index) for index in range(task.samples)] for _, cell in due)
    for (key, _), (samples, following) in zip(due, pairwise(chain(drawn, [[]])), strict=True):
        start, hits, nbytes = time.perf_counter(), torch.zeros(len(samples), dtype=torch.int64), 0
        # A row of full attention keeps all of its text: there are as many rows as texts in a piece.
        row_tokens = subject.segment_size or len(samples[0].token_ids)
        for rows in _batches(samples, max(1, piece_tokens // row_tokens)):
            batch = [samples[row] for row in rows]
            after = [following[row] for row in rows] if following else []
            piece_size = whole_segments(piece_tokens // len(batch), subject.unit)
            shared = _stack(after) if len({len(sample.token_ids) for sample in after}) == 1 else None
            stream, place = trunk.branch(_stack(batch), shared, batch[0].questions[0][0], piece_size)
            outcome = task.ask(stream, batch, start=place, piece_size=piece_size)
            hits[rows], nbytes = outcome.hits.sum(1), outcome.nbytes
            done, tokens = done + len(batch), tokens + sum(len(sample.token_ids) for sample in batch)
            on_sample(done, len(due) * task.samples, tokens)
        outside = [far for sample in samples for far in sample.outside_window(subject.segment_size, subject.overlap)]
        record = {
            "hits": int(hits.sum()),
            "answers": len(outside),
            "exact": int(hits.sum()) / len(outside),
            "sample_hits": hits.tolist(),
            "outside_window": sum(outside),
            "state_bytes": nbytes,
            "seconds": round(time.perf_counter() - start, 3),
        }
        journal.append(key | record | subject.about)
    found = [journal.find(key) for key, _ in cells]
    return [record for record in found if record is not None]


def _batches(samples: Sequence[RecallSample], size: int) -> Iterator[list[int]]:
    """The numbers of samples whose questions stand at the same places, at most `size` at once."""
    by_place: dict[Any, list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        by_place[sample.questions, sample.answers].append(number)
    for alike in by_place.values():
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _stack(samples: Sequence[RecallSample]) -> Tensor:
    """`[B, T]`."""
    return torch.stack([sample.token_ids for sample in samples])
