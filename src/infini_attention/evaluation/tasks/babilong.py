"""Reasoning over facts that are scattered in a book, with the official score of BABILong (arXiv 2406.10149)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerBase

from infini_attention.data.babi import SPLITS, TASKS
from infini_attention.data.babilong import NEW_TOKENS, BabilongSample, babilong_sample
from infini_attention.data.chat import answer_ends
from infini_attention.data.haystack import Haystack
from infini_attention.data.seeds import evaluation_rng
from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.recall import Outcome
from infini_attention.evaluation.stream import Stream
from infini_attention.evaluation.tasks.passkey import check_counts
from infini_attention.evaluation.tasks.ruler import check_subtasks
from infini_attention.evaluation.writing import read_prompts, write

PROTOCOL = 1
AXIS = "question"


@dataclass(frozen=True)
class BabilongTask:
    """Lengths x tasks of bAbI, a number of samples each.

    Attributes:
        tokenizer, haystack, lengths, samples, seed, memory: as in `PasskeyTask`.
        subtasks: names of `babi.TASKS`.
        split: of `babi.SPLITS`: `held-out` has people, places and things that training never meets.
        with_needle: False leaves the facts out: a control, in which a guess may be right.

    Raises:
        ConfigError: a count that cannot be, or an unknown task or split.
        InputError: a length that is too small.
    """

    name: ClassVar[str] = "babilong"

    tokenizer: PreTrainedTokenizerBase
    haystack: Haystack
    lengths: tuple[int, ...]
    subtasks: tuple[str, ...] = tuple(TASKS)
    split: str = "seen"
    samples: int = 20
    seed: int = 0
    memory: bool = True
    with_needle: bool = True

    def __post_init__(self) -> None:
        check_counts(lengths=self.lengths, samples=self.samples)
        check_subtasks(self.subtasks, TASKS)
        if self.split not in SPLITS:
            raise ConfigError(f"split must be {' or '.join(SPLITS)}; got {self.split!r}")
        for subtask in self.subtasks:  # much too short a length is known at once
            self.sample({"length": min(self.lengths), AXIS: subtask}, 0)

    def cells(self) -> Sequence[dict[str, Any]]:
        subtasks = [name for name in TASKS if name in self.subtasks]
        return [{"length": length, AXIS: name} for length in sorted(set(self.lengths)) for name in subtasks]

    def key(self, cell: dict[str, Any]) -> Record:
        return {
            "task": self.name,
            "protocol": PROTOCOL,
            **cell,
            "split": self.split,
            "samples": self.samples,
            "seed": self.seed,
            "haystack": self.haystack.name,
            "haystack_digest": self.haystack.digest,
            "memory": "on" if self.memory else "off",
            "needle": self.with_needle,
        }

    def sample(self, cell: dict[str, Any], index: int) -> BabilongSample:
        length, name = cell["length"], cell[AXIS]
        rng = evaluation_rng(self.seed, self.name, self.split, self.haystack.name, name, length, index)
        options: dict[str, Any] = {"split": self.split, "with_needle": self.with_needle}
        return babilong_sample(self.tokenizer, name, length, rng, self.haystack, **options)

    def ask(self, stream: Stream, samples: Sequence[BabilongSample], *, start: int, piece_size: int) -> Outcome:
        logits, nbytes = read_prompts(stream, samples, start=start, memory=self.memory, piece_size=piece_size)

        def text(tokens: list[int]) -> str:
            said = str(self.tokenizer.decode(tokens, skip_special_tokens=True)).lstrip()
            return said if self.tokenizer.chat_template else said.partition("\n")[0]

        def ended(row: int, tokens: list[int]) -> bool:
            said = str(self.tokenizer.decode(tokens)).lstrip()
            return "." in said or (not self.tokenizer.chat_template and "\n" in said)

        written = write(stream, logits, NEW_TOKENS, ends=answer_ends(self.tokenizer), enough=ended)
        hits = []
        for tokens, sample in zip(written, samples, strict=True):
            assert sample.story is not None
            story = sample.story
            hits.append([is_right(text(tokens), story.question, story.answer, story.labels)])
        return Outcome(torch.tensor(hits), nbytes)


def is_right(said: str, question: str, answer: str, labels: Collection[str]) -> bool:
    """BABILong's score: of the labels, the text before the first full stop names the answer and no other one.

    Labels that the question names do not count; upper and lower case are alike.

    Args:
        said: what the model wrote; without a chat template only its first line, as in `ask`.
        question: what it was asked.
        answer: the right label.
        labels: all that an answer may be.
    """
    first = said.casefold().partition(".")[0]
    known = {label.casefold() for label in labels} - {
        label.casefold() for label in labels if label.casefold() in question.casefold()
    }
    return {label for label in known if label in first} == {answer.casefold()}
