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
from infini_attention.evaluation.recall import recall
from infini_attention.evaluation.stream import Subject
from infini_attention.evaluation.trunk import Trunk

PIECE_TOKENS = 4096  # read at a time, over all rows of a batch: what stays in a processor's cache


class Task(Protocol):
    """What a task says about itself.

    Attributes:
        name: of the task.
        samples: per cell.
        seed: of all samples.
        memory: False empties the memory before each question.
    """

    name: ClassVar[str]

    @property
    def seed(self) -> int: ...

    @property
    def samples(self) -> int: ...

    @property
    def memory(self) -> bool: ...

    def cells(self) -> Sequence[dict[str, Any]]:
        """What tells the cells apart, each with its `length` in tokens; short ones first."""
        ...

    def key(self, cell: dict[str, Any]) -> Record:
        """All that the result of a cell depends on, but for the model."""
        ...

    def sample(self, cell: dict[str, Any], index: int) -> RecallSample:
        """Sample `index` of a cell: always the same."""
        ...


def run(
    task: Task,
    subject: Subject,
    journal: Journal,
    *,
    piece_tokens: int = PIECE_TOKENS,
    on_sample: Callable[[int, int, int], None] = lambda done, of, tokens: None,
) -> list[Record]:
    """The records of all cells, those that the journal had included.

    Args:
        task: gives the samples.
        subject: reads them.
        journal: what was run before; a cell with the same key and the same model is not run again.
        piece_tokens: read at a time, over all rows of a batch; changes no result.
        on_sample: called after each batch with the samples done, their number, and the tokens read.
    """
    cells = [(task.key(cell) | {"fingerprint": subject.about["fingerprint"]}, cell) for cell in task.cells()]
    due = [(key, cell) for key, cell in cells if journal.find(key) is None]
    trunk = Trunk(subject.open_stream)
    done = tokens = 0
    drawn = ([task.sample(cell, index) for index in range(task.samples)] for _, cell in due)
    for (key, _), (samples, following) in zip(due, pairwise(chain(drawn, [[]])), strict=True):
        start, hits, nbytes = time.perf_counter(), 0, 0
        for rows in _batches(samples, max(1, piece_tokens // subject.segment_size)):
            batch = [samples[row] for row in rows]
            after = _stack([following[row] for row in rows]) if following else None
            piece_size = max(1, piece_tokens // len(batch) // subject.segment_size) * subject.segment_size
            stream, place = trunk.branch(_stack(batch), after, batch[0].questions[0][0], piece_size)
            outcome = recall(stream, batch, start=place, memory=task.memory, piece_size=piece_size)
            hits, nbytes = hits + int(outcome.hits.sum()), outcome.nbytes
            done, tokens = done + len(batch), tokens + sum(len(sample.token_ids) for sample in batch)
            on_sample(done, len(due) * task.samples, tokens)
        outside = [far for sample in samples for far in sample.outside_window(subject.segment_size)]
        answers = {"hits": hits, "answers": len(outside), "exact": hits / len(outside), "outside_window": sum(outside)}
        seconds = round(time.perf_counter() - start, 3)
        journal.append(key | answers | {"state_bytes": nbytes, "seconds": seconds} | subject.about)
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
