"""What a run reads: a batch is a pure function of the recipe, the step and the process.

So resuming needs no replay, a run killed at any moment goes on with the same samples, and no file of positions is kept.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.data.names import TRAIN_NAMES, made_up_names
from infini_attention.data.recall import RecallSample, named_keys, passkey
from infini_attention.data.seeds import training_rng
from infini_attention.errors import ConfigError, InputError
from infini_attention.models import InfiniLlamaConfig
from infini_attention.training.recipe import Recipe

IN_WINDOW, OUTSIDE = 1, 2
MAX_SHARE_OF_NEEDLES = 0.6
MADE_UP_NAMES = 2000
LONG_NEEDLE = "The pass key of Nicholas is 12345. Remember it. 12345 is the pass key of Nicholas. "


@dataclass
class RecipeBatches(IterableDataset):
    """Batches `{"input_ids": [N, T] int64, "answers": [N, T] int8}`, all rows of a batch equally long.

    `answers` is 0 for plain text, `IN_WINDOW` for an answer, and `OUTSIDE` for one that only the memory can know.

    Args:
        recipe: of the run.
        tokenizer: of the model.
        rank: of this process, whose samples differ from those of the others.
        start: the first step.
    """

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    rank: int = 0
    start: int = 0

    def __post_init__(self) -> None:
        self.filler = Haystack.repeat(self.tokenizer)
        books = book_files(self.recipe.data.books)
        self.segment_size = InfiniLlamaConfig(**self.recipe.model).infini_settings.segment_size
        self.made_up = made_up_names(MADE_UP_NAMES, random.Random(0))
        self.books = Haystack.book(self.tokenizer, books) if books else None
        if self.books is None and (self.recipe.data.book_share or self.recipe.data.mixture.text):
            raise ConfigError("data.book_share and data.mixture.text need data.books; it is empty")

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.start, self.recipe.steps):
            yield self.batch(step)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of step `step`."""
        recipe = self.recipe
        rng = training_rng(recipe.seed, self.rank, step)
        stage = recipe.stage_at(step)
        if stage and rng.random() < recipe.data.earlier_share:
            stage = rng.randrange(stage)
        length = recipe.curriculum[stage].length
        samples = [self._sample(length, rng) for _ in range(max(1, recipe.data.tokens_per_step // length))]
        answers = torch.zeros(len(samples), length, dtype=torch.int8)
        for row, sample in enumerate(samples):
            for (start, stop), outside in zip(sample.answers, sample.outside_window(self.segment_size), strict=True):
                answers[row, start:stop] = OUTSIDE if outside else IN_WINDOW
        return {"input_ids": torch.stack([sample.token_ids for sample in samples]), "answers": answers}

    def _sample(self, length: int, rng: random.Random) -> RecallSample:
        tasks: dict[str, Callable[[int, random.Random], RecallSample]] = {
            "passkey": self._passkey,
            "named_keys": self._named_keys,
            "text": self._text,
        }
        shares = self.recipe.data.mixture.model_dump()
        return tasks[rng.choices(list(shares), list(shares.values()))[0]](length, rng)

    def _haystack(self, rng: random.Random) -> Haystack:
        in_book = self.books is not None and rng.random() < self.recipe.data.book_share
        return self.books if in_book and self.books is not None else self.filler

    def _passkey(self, length: int, rng: random.Random) -> RecallSample:
        return passkey(self.tokenizer, length, rng, self._haystack(rng))

    def _named_keys(self, length: int, rng: random.Random) -> RecallSample:
        """As many keys as fit beside a good share of haystack, at most `max_keys`, a power of two."""
        haystack, data = self._haystack(rng), self.recipe.data
        counts = [2**n for n in range(data.max_keys.bit_length()) if 2**n <= data.max_keys]
        count = rng.choice([n for n in counts if n * self._needle_tokens <= MAX_SHARE_OF_NEEDLES * length] or [1])
        rewritten = rng.choice((0, (count + 3) // 4))
        questions = min(count, data.questions)
        names = rng.choice((TRAIN_NAMES, self.made_up))
        while True:
            try:
                asked = {"keys": count, "questions": questions, "rewritten": rewritten}
                return named_keys(self.tokenizer, length, rng, haystack, names=names, **asked)
            except InputError:  # too short for so much
                if count == 1:
                    raise
                count //= 2
                questions, rewritten = min(questions, count), 0

    @cached_property
    def _needle_tokens(self) -> int:
        return len(self.tokenizer(LONG_NEEDLE)["input_ids"])

    def _text(self, length: int, rng: random.Random) -> RecallSample:
        assert self.books is not None
        return RecallSample(self.books.cut(length, rng), ())


def book_files(names: tuple[str, ...]) -> list[Path]:
    """All text files that `names` name, in a fixed order. Raises `ConfigError` for one that is not there."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        found = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        if not found or not path.exists():
            raise ConfigError(f"data.books: no text at {path}")
        files += found
    return files
