"""What a run reads: a batch is a pure function of the recipe, the step and the process.

So resuming needs no replay, a run killed at any moment goes on with the same samples, and no file of positions is kept.
"""

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from infini_attention.data.documents import Documents, dataset_texts, file_texts
from infini_attention.data.facts import facts
from infini_attention.data.haystack import Haystack
from infini_attention.data.names import TRAIN_NAMES, made_up_names
from infini_attention.data.recall import RecallSample, named_keys, passkey
from infini_attention.data.ruler import ruler_sample
from infini_attention.data.ruler_text import KINDS as RULER_KINDS
from infini_attention.data.seeds import training_rng
from infini_attention.errors import ConfigError, InputError
from infini_attention.models import InfiniSettings
from infini_attention.training.entries import Stage
from infini_attention.training.recipe import Recipe

logger = logging.getLogger(__name__)

IN_WINDOW, OUTSIDE = 1, 2
MADE_UP_NAMES = 2000


@dataclass
class RecipeBatches(IterableDataset):
    """Batches `{"input_ids": [N, T] int64, "answers": [N, T] int8}`, all rows of a batch equally long.

    `answers` is 0 for plain text, `IN_WINDOW` for an answer, and `OUTSIDE` for one that only the memory can know. Where
    the recipe names segment sizes, `segment_size` (a number) is the one that this batch is to be read with.

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
        settings = InfiniSettings.from_dict(self.recipe.model.get("infini") or {})
        self.segment_size, self.overlap = settings.segment_size, settings.overlap
        self.made_up = made_up_names(MADE_UP_NAMES, random.Random(0))
        self.documents = read_documents(self.recipe, self.tokenizer)
        self.books = None if self.documents is None else Haystack.across(self.documents)

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
        count = max(1, recipe.data.tokens_per_step // length)
        if recipe.data.jitter:
            length -= rng.randint(0, recipe.data.jitter)
        samples = [self._sample(stage, length, rng) for _ in range(count)]
        # The last of all draws: it leaves the samples as they are.
        segment_size = rng.choice(recipe.data.segment_sizes) if recipe.data.segment_sizes else self.segment_size
        answers = torch.zeros(len(samples), length, dtype=torch.int8)
        for row, sample in enumerate(samples):
            far = sample.outside_window(segment_size, self.overlap)
            for (start, stop), outside in zip(sample.answers, far, strict=True):
                answers[row, start:stop] = OUTSIDE if outside else IN_WINDOW
        batch = {"input_ids": torch.stack([sample.token_ids for sample in samples]), "answers": answers}
        return batch | {"segment_size": torch.tensor(segment_size)} if recipe.data.segment_sizes else batch

    def _sample(self, stage: int, length: int, rng: random.Random) -> RecallSample:
        tasks: dict[str, Callable[[Stage, random.Random], RecallSample]] = {
            "passkey": self._passkey,
            "named_keys": self._named_keys,
            "text": self._text,
            "facts": self._facts,
            "needles": self._needles,
        }
        shares = self.recipe.mixture_of(stage).model_dump()
        return tasks[rng.choices(list(shares), list(shares.values()))[0]](
            self.recipe.curriculum[stage].model_copy(update={"length": length}), rng
        )

    def _near(self, stage: Stage, rng: random.Random) -> float | None:
        """A depth in the last segment before the questions, if this sample is to have such a needle."""
        if not stage.near_share or rng.random() >= stage.near_share:
            return None
        return 1 - rng.random() * min(1, self.segment_size / stage.length)

    def _haystack(self, rng: random.Random) -> Haystack:
        in_book = self.books is not None and rng.random() < self.recipe.data.book_share
        return self.books if in_book and self.books is not None else self.filler

    def _passkey(self, stage: Stage, rng: random.Random) -> RecallSample:
        haystack = self._haystack(rng)
        return passkey(self.tokenizer, stage.length, rng, haystack, depth=self._near(stage, rng))

    def _named_keys(self, stage: Stage, rng: random.Random) -> RecallSample:
        """A power of two of keys, at most `max_keys` and as many as fit; in half of the samples, some come twice."""
        haystack, data = self._haystack(rng), self.recipe.data
        names = rng.choice((TRAIN_NAMES, self.made_up))
        count, twice = 2 ** rng.randrange(data.max_keys.bit_length()), rng.random() < 0.5
        last = self._near(stage, rng) or 0.0
        while True:
            counts = {"keys": count, "questions": min(count, data.questions), "rewritten": (count + 3) // 4 * twice}
            try:
                return named_keys(self.tokenizer, stage.length, rng, haystack, names=names, last_depth=last, **counts)
            except InputError:  # too short for so much
                if count == 1 and not twice:
                    raise
                count, twice = max(1, count // 2), twice and count > 1

    def _facts(self, stage: Stage, rng: random.Random) -> RecallSample:
        """A power of two of facts, at most `max_keys` and as many as fit."""
        haystack, data = self._haystack(rng), self.recipe.data
        count = 2 ** rng.randrange(data.max_keys.bit_length())
        while True:
            try:
                questions = min(count, data.questions)
                return facts(self.tokenizer, stage.length, rng, haystack, count=count, questions=questions)
            except InputError:  # too short for so much
                if count == 1:
                    raise
                count //= 2

    def _needles(self, stage: Stage, rng: random.Random) -> RecallSample:
        """One of the tasks of `infini eval ruler` that hide sentences in a text, its answer included."""
        name = rng.choice(self.recipe.data.needles)
        in_book = self.books is not None and RULER_KINDS[name].haystack == "book"
        haystack = self.books if in_book and self.books is not None else self.filler
        try:
            return ruler_sample(self.tokenizer, name, stage.length, rng, haystack, answered=True)
        except InputError:  # too short for so much
            return self._passkey(stage, rng)

    def _text(self, stage: Stage, rng: random.Random) -> RecallSample:
        assert self.documents is not None
        return RecallSample(self.documents.cut(stage.length, rng), ())


def read_documents(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Documents | None:
    """All books and data sets of a recipe as tokens; None where it names none.

    Raises:
        ConfigError: it needs some and names none, or one is not there.
        InputError: one cannot be read, or no document is as long as the longest stage.
    """
    data = recipe.data
    text_lengths = [stage.length for index, stage in enumerate(recipe.curriculum) if recipe.mixture_of(index).text]
    if not data.books and not data.datasets:
        if data.book_share or text_lengths:
            raise ConfigError("data.book_share and text in a mixture need data.books or data.datasets; both are empty")
        return None
    rows = (dataset_texts(**dataset.model_dump()) for dataset in data.datasets)
    documents = Documents.tokenize(tokenizer, chain(file_texts(book_files(data.books)), *rows))
    logger.info("%d documents, %d tokens", documents.count, len(documents.token_ids))
    if text_lengths:
        longest = max(text_lengths)
        share = documents.within_reach(longest) / len(documents.token_ids)  # now, and not when that stage begins
        logger.info("%.0f %% of it in documents long enough for samples of text of %d tokens", 100 * share, longest)
    return documents


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
