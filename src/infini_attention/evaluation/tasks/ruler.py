"""Tasks in the style of RULER (Hsieh et al. 2024, arXiv 2404.06654): the model writes, and strings are looked for."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.data.ruler import RulerSample, ruler_sample
from infini_attention.data.ruler_text import KINDS
from infini_attention.data.seeds import evaluation_rng
from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.recall import Outcome
from infini_attention.evaluation.stats import standard_error, wilson_interval
from infini_attention.evaluation.stream import Stream
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.passkey import check_counts
from infini_attention.evaluation.writing import read_prompts, write

PROTOCOL = 1  # counts up when samples or scores change, so that old records are not taken for new ones
AXIS = "subtask"


@dataclass(frozen=True)
class RulerTask:
    """Lengths x subtasks, a number of samples each.

    Attributes:
        tokenizer, lengths, samples, seed, memory: as in `PasskeyTask`.
        haystacks: by name, those that the subtasks have their filler from; a list of items has none.
        subtasks: names of `KINDS`.
        with_needle: False leaves out the needles that are asked about: a control in which nothing can be found.

    Raises:
        ConfigError: a count that cannot be, or an unknown subtask.
        InputError: a length that is too small for one of them.
    """

    name: ClassVar[str] = "ruler"

    tokenizer: PreTrainedTokenizerBase
    haystacks: Mapping[str, Haystack]
    lengths: tuple[int, ...]
    subtasks: tuple[str, ...] = tuple(KINDS)
    samples: int = 20
    seed: int = 0
    memory: bool = True
    with_needle: bool = True

    def __post_init__(self) -> None:
        check_counts(lengths=self.lengths, samples=self.samples)
        check_subtasks(self.subtasks)
        for subtask in self.subtasks:  # too short a length is known at once
            self.sample({"length": min(self.lengths), AXIS: subtask}, 0)

    def cells(self) -> Sequence[dict[str, Any]]:
        subtasks = [name for name in KINDS if name in self.subtasks]
        return [{"length": length, AXIS: name} for length in sorted(set(self.lengths)) for name in subtasks]

    def key(self, cell: dict[str, Any]) -> Record:
        haystack = self.haystacks.get(KINDS[cell[AXIS]].haystack)
        return {
            "task": self.name,
            "protocol": PROTOCOL,
            **cell,
            "new_tokens": KINDS[cell[AXIS]].new_tokens,
            "samples": self.samples,
            "seed": self.seed,
            "haystack": KINDS[cell[AXIS]].haystack,
            "haystack_digest": None if haystack is None else haystack.digest,
            "memory": "on" if self.memory else "off",
            "needle": self.with_needle,
        }

    def sample(self, cell: dict[str, Any], index: int) -> RulerSample:
        name, haystack = cell[AXIS], self.haystacks.get(KINDS[cell[AXIS]].haystack)
        rng = evaluation_rng(self.seed, self.name, name, cell["length"], index)
        return ruler_sample(self.tokenizer, name, cell["length"], rng, haystack, with_needle=self.with_needle)

    def ask(self, stream: Stream, samples: Sequence[RulerSample], *, start: int, piece_size: int) -> Outcome:
        logits, nbytes = read_prompts(stream, samples, start=start, memory=self.memory, piece_size=piece_size)
        return Outcome(_answer(stream, logits, samples, self.tokenizer), nbytes)


def check_subtasks(names: Sequence[str], known: Collection[str] = KINDS) -> None:
    """Raises `ConfigError` unless there is a name, and all of them are `known`."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(f"tasks must be some of {', '.join(known)}; got {', '.join(map(repr, unknown)) or 'none'}")


def _answer(
    stream: Stream, logits: Tensor, samples: Sequence[RulerSample], tokenizer: PreTrainedTokenizerBase
) -> Tensor:
    """Which of the expected strings each row writes, greedily: `[B, Q]` bool.

    RULER's "string match, all": they may stand anywhere in what is written, in any order. A row that has written all of
    its strings need not go on.
    """

    def found(row: int, tokens: list[int]) -> list[bool]:
        text = str(tokenizer.decode(tokens)).casefold()
        return [string.casefold() in text for string in samples[row].expected]

    ends = (tokenizer.eos_token_id,)
    written = write(
        stream, logits, samples[0].new_tokens, ends=ends, enough=lambda row, tokens: all(found(row, tokens))
    )
    return torch.tensor([found(row, tokens) for row, tokens in enumerate(written)])


def summarize_ruler(records: Sequence[Record], axis: str) -> Record:
    """`summarize`, and how sure each cell is.

    A subtask with one string per sample is right or wrong, and has a Wilson interval; the strings of one sample are not
    independent, so that a subtask with several has the standard error of the mean of its samples' shares.

    Returns:
        as `summarize`, with scores: for each cell its length, subtask, score, strings per sample, and interval or
        standard_error. Where there are several strings anywhere, accuracy has a standard_error instead of an interval.
    """
    result = summarize(records, axis)
    scores, errors = [], []
    for record in records:
        strings = record["answers"] // record["samples"]
        error = standard_error([hits / strings for hits in record["sample_hits"]])
        sure = {"interval": list(wilson_interval(record["hits"], record["answers"]))}
        score = {name: record[name] for name in ("length", axis)} | {"score": record["exact"], "strings": strings}
        scores.append(score | (sure if strings == 1 else {"standard_error": error}))
        errors.append(error)
    known = [error for error in errors if error is not None]
    if any(score["strings"] > 1 for score in scores):
        result["interval"] = None
        result["standard_error"] = math.hypot(*known) / len(records) if len(known) == len(records) else None
    return result | {"scores": scores}
