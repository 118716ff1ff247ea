"""The passkey task: one key in a haystack, at every length and depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.data.recall import RecallSample, passkey
from infini_attention.data.seeds import evaluation_rng
from infini_attention.errors import ConfigError
from infini_attention.evaluation.recall import Outcome, recall
from infini_attention.evaluation.stream import Stream

PROTOCOL = 2  # counts up when samples change, so that old records are not taken for new ones


@dataclass(frozen=True)
class PasskeyTask:
    """Lengths x depths, a number of samples each.

    Attributes:
        tokenizer: of the model.
        haystack: the filler.
        lengths: of whole samples, in tokens.
        depths: how many, evenly from the beginning (0) to the end (1); one alone means the beginning.
        samples: per cell.
        seed: of keys and filler; never one of training's, whatever its number.
        memory: False empties the memory before the question: a control that must fall to chance.
        with_needle: False leaves the needle out: a control in which the model must not find it.

    Raises:
        ConfigError: a count below 1, or none.
    """

    name: ClassVar[str] = "passkey"

    tokenizer: PreTrainedTokenizerBase
    haystack: Haystack
    lengths: tuple[int, ...]
    depths: int = 21
    samples: int = 20
    seed: int = 0
    memory: bool = True
    with_needle: bool = True

    def __post_init__(self) -> None:
        check_counts(lengths=self.lengths, depths=self.depths, samples=self.samples)
        self.sample({"length": min(self.lengths), "depth": 0.0}, 0)  # too short a length is known at once

    def cells(self) -> Sequence[dict[str, Any]]:
        depths = [number / max(1, self.depths - 1) for number in range(self.depths)]
        return [{"length": length, "depth": depth} for length in sorted(set(self.lengths)) for depth in depths]

    def key(self, cell: dict[str, Any]) -> dict[str, Any]:
        return {
            "task": self.name,
            "protocol": PROTOCOL,
            **cell,
            "samples": self.samples,
            "seed": self.seed,
            "haystack": self.haystack.name,
            "haystack_digest": self.haystack.digest,
            "memory": "on" if self.memory else "off",
            "needle": self.with_needle,
        }

    def sample(self, cell: dict[str, Any], index: int) -> RecallSample:
        length, depth = cell["length"], cell["depth"]
        # The text is the same at every depth: what stands before the needle is then read once for all of them.
        place = self.seed, self.name, self.haystack.name, length
        rng, text_rng = evaluation_rng(*place, depth, index), evaluation_rng(*place, index)
        options: dict[str, Any] = {"depth": depth, "with_needle": self.with_needle, "text_rng": text_rng}
        return passkey(self.tokenizer, length, rng, self.haystack, **options)

    def ask(self, stream: Stream, samples: Sequence[RecallSample], *, start: int, piece_size: int) -> Outcome:
        return recall(stream, samples, start=start, memory=self.memory, piece_size=piece_size)


def check_counts(**counts: int | tuple[int, ...]) -> None:
    """Raises `ConfigError` for a count below 1, or a list of them that is empty."""
    for name, count in counts.items():
        values = count if isinstance(count, tuple) else (count,)
        if not values or min(values) < 1:
            raise ConfigError(f"{name} must be at least 1; got {count}")
