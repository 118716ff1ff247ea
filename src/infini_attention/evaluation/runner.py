"""Runs the cells of a task: each is a number of samples that differ in nothing but their random numbers."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Protocol

from infini_attention.data.recall import RecallSample
from infini_attention.evaluation.journal import Journal, Record
from infini_attention.evaluation.recall import recall
from infini_attention.evaluation.stream import Subject

PIECE_TOKENS = 16384  # read at a time, over all rows of a batch


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


@dataclass
class _Tally:
    hits: int = 0
    answers: int = 0
    outside: int = 0
    done: int = 0
    seconds: float = 0.0
    nbytes: int = 0


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
    due = [number for number, (key, _) in enumerate(cells) if journal.find(key) is None]
    tallies: dict[int, _Tally] = defaultdict(_Tally)
    done = tokens = 0
    for numbers, samples in _batches(task, [(number, cells[number][1]) for number in due], piece_tokens):
        start, rows = time.perf_counter(), len(samples)
        piece_size = max(1, piece_tokens // rows // subject.segment_size) * subject.segment_size
        outcome = recall(subject.open_stream(), samples, memory=task.memory, piece_size=piece_size)
        seconds = (time.perf_counter() - start) / rows
        for number, sample, hits in zip(numbers, samples, outcome.hits, strict=True):
            tally = tallies[number]
            tally.hits += int(hits.sum())
            tally.answers += len(hits)
            tally.outside += sum(sample.outside_window(subject.segment_size))
            tally.done, tally.seconds, tally.nbytes = tally.done + 1, tally.seconds + seconds, outcome.nbytes
            if tally.done == task.samples:
                journal.append(_record(cells[number][0], subject, tallies.pop(number)))
        done, tokens = done + rows, tokens + sum(len(sample.token_ids) for sample in samples)
        on_sample(done, len(due) * task.samples, tokens)
    found = [journal.find(key) for key, _ in cells]
    return [record for record in found if record is not None]


def _record(key: Record, subject: Subject, tally: _Tally) -> Record:
    return key | {
        "hits": tally.hits,
        "answers": tally.answers,
        "exact": tally.hits / tally.answers,
        "outside_window": tally.outside,
        "state_bytes": tally.nbytes,
        "seconds": round(tally.seconds, 3),
        **subject.about,
    }


def _batches(
    task: Task, cells: Iterable[tuple[int, dict[str, Any]]], piece_tokens: int
) -> Iterator[tuple[list[int], list[RecallSample]]]:
    """Samples of equal length, with their questions at the same places, and the numbers of their cells."""
    by_length: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for number, cell in cells:
        by_length[cell["length"]].append((number, cell))
    for length, group in by_length.items():
        left = ((number, task.sample(cell, index)) for number, cell in group for index in range(task.samples))
        while several := list(islice(left, max(1, piece_tokens // length))):
            by_place: dict[Any, list[tuple[int, RecallSample]]] = defaultdict(list)
            for number, sample in several:
                by_place[sample.questions, sample.answers].append((number, sample))
            for alike in by_place.values():
                yield [number for number, _ in alike], [sample for _, sample in alike]
