"""Multi-query associative recall: how many pairs a state of so many bytes holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.data.mqar import VOCABULARY, PairTokens, mqar_sample
from infini_attention.data.recall import RecallSample
from infini_attention.data.seeds import evaluation_rng
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.recall import Outcome, recall
from infini_attention.evaluation.stats import wilson_interval
from infini_attention.evaluation.stream import Stream
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.passkey import check_counts

PROTOCOL = 1
AXIS = "pairs"


@dataclass(frozen=True)
class MqarTask:
    """Lengths x numbers of pairs, a number of samples each.

    Attributes:
        tokenizer, haystack, lengths, samples, seed, memory: as in `PasskeyTask`.
        pairs: how many, each a column of cells.
        questions: at most so many per sample.
        vocabulary: at most so many tokens are a key or a value.
        with_needle: False leaves the pairs out: a control.
        tokens: what keys and values are drawn from.

    Raises:
        ConfigError: a count that cannot be.
        InputError: more pairs than the haystack leaves tokens for, or a length that is too small for them.
    """

    name: ClassVar[str] = "mqar"

    tokenizer: PreTrainedTokenizerBase
    haystack: Haystack
    lengths: tuple[int, ...]
    pairs: tuple[int, ...] = (4, 16, 64)
    questions: int = 64
    vocabulary: int = VOCABULARY
    samples: int = 20
    seed: int = 0
    memory: bool = True
    with_needle: bool = True
    tokens: PairTokens = field(init=False)

    def __post_init__(self) -> None:
        check_counts(lengths=self.lengths, pairs=self.pairs, questions=self.questions, samples=self.samples)
        check_counts(vocabulary=self.vocabulary)
        object.__setattr__(self, "tokens", PairTokens.of(self.tokenizer, self.haystack, self.vocabulary))
        self.sample({"length": min(self.lengths), AXIS: max(self.pairs)}, 0)  # what cannot be is known at once

    def cells(self) -> Sequence[dict[str, Any]]:
        return [
            {"length": length, AXIS: pairs} for length in sorted(set(self.lengths)) for pairs in sorted({*self.pairs})
        ]

    def key(self, cell: dict[str, Any]) -> Record:
        return {
            "task": self.name,
            "protocol": PROTOCOL,
            **cell,
            "questions": min(self.questions, cell[AXIS]),
            "vocabulary": len(self.tokens.keys) + len(self.tokens.values),
            "samples": self.samples,
            "seed": self.seed,
            "haystack": self.haystack.name,
            "haystack_digest": self.haystack.digest,
            "memory": "on" if self.memory else "off",
            "needle": self.with_needle,
        }

    def sample(self, cell: dict[str, Any], index: int) -> RecallSample:
        length, pairs = cell["length"], cell[AXIS]
        rng = evaluation_rng(self.seed, self.name, self.haystack.name, length, pairs, index)
        options: dict[str, Any] = {"questions": min(self.questions, pairs), "with_needle": self.with_needle}
        return mqar_sample(self.tokenizer, length, rng, self.haystack, self.tokens, pairs=pairs, **options)

    def ask(self, stream: Stream, samples: Sequence[RecallSample], *, start: int, piece_size: int) -> Outcome:
        return recall(stream, samples, start=start, memory=self.memory, piece_size=piece_size)


def summarize_mqar(records: Sequence[Record], axis: str) -> Record:
    """`summarize`, with chance and the curve: accuracy by length and number of pairs, beside the state's bytes."""
    curve = [
        {name: record[name] for name in ("length", axis, "exact", "state_bytes")}
        | {"interval": list(wilson_interval(record["hits"], record["answers"]))}
        for record in records
    ]
    return summarize(records, axis) | {"chance": 2 / records[0]["vocabulary"], "curve": curve}
