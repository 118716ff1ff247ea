"""Many keys or facts at once: whose was it, and which one is the latest?"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from infini_attention.data.facts import facts
from infini_attention.data.haystack import Haystack
from infini_attention.data.names import TEST_NAMES
from infini_attention.data.recall import RecallSample, named_keys
from infini_attention.data.seeds import evaluation_rng
from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.recall import Outcome, recall
from infini_attention.evaluation.stream import Stream
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.passkey import check_counts

PROTOCOL = 1


@dataclass(frozen=True)
class KeysTask:
    """Lengths x numbers of keys, a number of samples each.

    Attributes:
        tokenizer, haystack, lengths, samples, seed, memory: as in `PasskeyTask`.
        counts: how many people have a key, each a column of cells. Their names are none of training's.
        questions: at most so many per sample.
        rewritten: at most so many people's keys are written twice; the latest wins.
        with_needle: False leaves all keys out: a control in which none can be known.

    Raises:
        ConfigError: a count that cannot be.
    """

    name: ClassVar[str] = "keys"
    axis: ClassVar[str] = "keys"

    tokenizer: PreTrainedTokenizerBase
    haystack: Haystack
    lengths: tuple[int, ...]
    counts: tuple[int, ...] = (1, 4, 16, 64)
    questions: int = 8
    rewritten: int = 0
    samples: int = 20
    seed: int = 0
    memory: bool = True
    with_needle: bool = True

    def __post_init__(self) -> None:
        numbers: dict[str, int | tuple[int, ...]] = {
            self.axis: self.counts,
            "questions": self.questions,
            "samples": self.samples,
        }
        check_counts(lengths=self.lengths, **numbers)
        self.sample({"length": min(self.lengths), self.axis: max(self.counts)}, 0)  # what cannot be is known at once

    def cells(self) -> Sequence[dict[str, Any]]:
        lengths, counts = sorted(set(self.lengths)), sorted(set(self.counts))
        return [{"length": length, self.axis: count} for length in lengths for count in counts]

    def key(self, cell: dict[str, Any]) -> Record:
        return {
            "task": self.name,
            "protocol": PROTOCOL,
            **cell,
            **self._asked(cell[self.axis]),
            "samples": self.samples,
            "seed": self.seed,
            "haystack": self.haystack.name,
            "haystack_digest": self.haystack.digest,
            "memory": "on" if self.memory else "off",
            "needle": self.with_needle,
        }

    def sample(self, cell: dict[str, Any], index: int) -> RecallSample:
        length, count = cell["length"], cell[self.axis]
        rng = evaluation_rng(self.seed, self.name, self.haystack.name, length, count, index)
        options: dict[str, Any] = {**self._asked(count), "names": TEST_NAMES, "with_needle": self.with_needle}
        return self._draw(length, rng, count, options)

    def ask(self, stream: Stream, samples: Sequence[RecallSample], *, start: int, piece_size: int) -> Outcome:
        return recall(stream, samples, start=start, memory=self.memory, piece_size=piece_size)

    def _asked(self, count: int) -> dict[str, int]:
        return {"questions": min(self.questions, count), "rewritten": min(self.rewritten, count)}

    def _draw(self, length: int, rng: Random, count: int, options: dict[str, Any]) -> RecallSample:
        return named_keys(self.tokenizer, length, rng, self.haystack, keys=count, **options)


@dataclass(frozen=True)
class FactsTask(KeysTask):
    """Facts about people, stated in the flow of a text and asked about in the model's own chat template.

    Attributes:
        counts: how many facts, each a column of cells.
        rewritten: 0; a fact is stated once.
    """

    name: ClassVar[str] = "facts"
    axis: ClassVar[str] = "facts"

    def __post_init__(self) -> None:
        if self.rewritten:
            raise ConfigError(f"facts are stated once, so rewritten must be 0; got {self.rewritten}")
        super().__post_init__()

    def _asked(self, count: int) -> dict[str, int]:
        return {"questions": min(self.questions, count)}

    def _draw(self, length: int, rng: Random, count: int, options: dict[str, Any]) -> RecallSample:
        return facts(self.tokenizer, length, rng, self.haystack, count=count, **options)


def summarize_keys(records: Sequence[Record], axis: str) -> Record:
    """`summarize`, with how much the memory holds.

    Returns:
        as `summarize`, with capacity: for each length, the keys (or what `axis` counts) that can be recalled at once
        (the share of right answers times their number, where that is most), and these per kilobyte (1,000 bytes) of
        state.
    """

    def held(record: Record) -> float:
        return float(record["exact"] * record[axis])

    capacity = []
    for length in sorted({record["length"] for record in records}):
        most = max((record for record in records if record["length"] == length), key=held)
        figures = {axis: held(most), f"{axis}_per_kilobyte": 1000 * held(most) / most["state_bytes"]}
        capacity.append({"length": length, "of": most[axis], **figures})
    return summarize(records, axis) | {"capacity": capacity}
