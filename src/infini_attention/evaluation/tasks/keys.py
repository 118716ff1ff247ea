"""Many keys at once: whose key was it, and which one is the latest?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.data.names import TEST_NAMES
from infini_attention.data.recall import RecallSample, named_keys
from infini_attention.data.seeds import evaluation_rng
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.recall import Outcome, recall
from infini_attention.evaluation.stream import Stream
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.passkey import check_counts

AXIS = "keys"
PROTOCOL = 1


@dataclass(frozen=True)
class KeysTask:
    """Lengths x numbers of keys, a number of samples each.

    Attributes:
        tokenizer, haystack, lengths, samples, seed, memory: as in `PasskeyTask`.
        keys: how many people have a key, each a column of cells. Their names are none of training's.
        questions: at most so many per sample.
        rewritten: at most so many people's keys are written twice; the latest wins.
        with_needle: False leaves all keys out: a control in which none can be known.

    Raises:
        ConfigError: a count that cannot be.
    """

    name: ClassVar[str] = "keys"

    tokenizer: PreTrainedTokenizerBase
    haystack: Haystack
    lengths: tuple[int, ...]
    keys: tuple[int, ...] = (1, 4, 16, 64)
    questions: int = 8
    rewritten: int = 0
    samples: int = 20
    seed: int = 0
    memory: bool = True
    with_needle: bool = True

    def __post_init__(self) -> None:
        check_counts(lengths=self.lengths, keys=self.keys, questions=self.questions, samples=self.samples)
        self.sample({"length": min(self.lengths), "keys": max(self.keys)}, 0)  # what cannot be is known at once

    def cells(self) -> Sequence[dict[str, Any]]:
        return [
            {"length": length, "keys": keys} for length in sorted(set(self.lengths)) for keys in sorted(set(self.keys))
        ]

    def key(self, cell: dict[str, Any]) -> Record:
        return {
            "task": self.name,
            "protocol": PROTOCOL,
            **cell,
            **self._counts(cell["keys"]),
            "samples": self.samples,
            "seed": self.seed,
            "haystack": self.haystack.name,
            "haystack_digest": self.haystack.digest,
            "memory": "on" if self.memory else "off",
            "needle": self.with_needle,
        }

    def sample(self, cell: dict[str, Any], index: int) -> RecallSample:
        length, keys = cell["length"], cell["keys"]
        rng = evaluation_rng(self.seed, self.name, self.haystack.name, length, keys, index)
        options: dict[str, Any] = {**self._counts(keys), "names": TEST_NAMES, "with_needle": self.with_needle}
        return named_keys(self.tokenizer, length, rng, self.haystack, keys=keys, **options)

    def ask(self, stream: Stream, samples: Sequence[RecallSample], *, start: int, piece_size: int) -> Outcome:
        return recall(stream, samples, start=start, memory=self.memory, piece_size=piece_size)

    def _counts(self, keys: int) -> dict[str, int]:
        return {"questions": min(self.questions, keys), "rewritten": min(self.rewritten, keys)}


def summarize_keys(records: Sequence[Record], axis: str) -> Record:
    """`summarize`, with how much the memory holds.

    Returns:
        as `summarize`, with capacity: for each length, the keys that can be recalled at once (the share of right
        answers times the number of people, where that is most), and these per kilobyte (1,000 bytes) of state.
    """
    capacity = []
    for length in sorted({record["length"] for record in records}):
        most = max((record for record in records if record["length"] == length), key=_held)
        held = _held(most)
        capacity.append(
            {"length": length, "of": most[axis], "keys": held, "keys_per_kilobyte": 1000 * held / most["state_bytes"]}
        )
    return summarize(records, axis) | {"capacity": capacity}


def _held(record: Record) -> float:
    return float(record["exact"] * record[AXIS])
