"""A training run is a file: TOML, checked whole before anything starts."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infini_attention.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    """Unknown names are mistakes, not extras."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mixture(_Part):
    """How often each task is drawn, relative to the others."""

    passkey: Share = 1.0
    named_keys: Share = 0.0
    text: Share = 0.0

    @model_validator(mode="after")
    def _something(self) -> "Mixture":
        if not sum(self.model_dump().values()):
            raise ValueError("at least one task must have a share above 0")
        return self


class Stage(_Part):
    """One stage of the curriculum.

    Attributes:
        length: tokens per sample.
        steps: optimiser steps.
        mixture: in place of `data.mixture`: first one thing, then many.
        write_penalty: in place of `loss.write_penalty`: first to remember, then what not to write.
    """

    length: Positive
    steps: Positive
    mixture: Mixture | None = None
    write_penalty: Share | None = None


class Dataset(_Part):
    """Texts for `datasets.load_dataset`, one per row, streamed and tokenized once when the run starts.

    Attributes:
        path: a format ("json", "parquet", "csv", "text"), a folder (beginning with "." it is relative to the recipe's),
            or a hub id.
        name: of a configuration of the data set.
        data_files: file names or patterns; of a format, they are relative to the recipe's folder.
        revision: of a data set on the hub. Without one, the samples are others when it changes.
        split: of the data set.
        column: that holds the text.
        max_documents: rows to stop after; None reads all, and all must fit into memory.
    """

    path: str
    name: str | None = None
    data_files: str | tuple[str, ...] | None = None
    revision: str | None = None
    split: str = "train"
    column: str = "text"
    max_documents: Positive | None = None

    def beside(self, folder: Path) -> "Dataset":
        """The same, with the names of files on this machine no longer relative to `folder`."""
        if self.path.startswith("."):
            return self.model_copy(update={"path": str(folder / self.path)})
        files = (self.data_files,) if isinstance(self.data_files, str) else self.data_files
        if files is None or "/" in self.path:  # in a folder or on the hub, names are relative to the data set
            return self
        return self.model_copy(
            update={"data_files": tuple(name if "://" in name else str(folder / name) for name in files)}
        )


class Data(_Part):
    """What is read.

    Attributes:
        books: text files, or folders of them, as haystacks and as text; relative to the recipe's folder. Each file is a
            document: a haystack may go on across its end, a sample of the task `text` never does.
        datasets: more documents, after the books.
        book_share: how many of the haystacks are books; the others repeat one filler.
        max_keys: the most names in one sample of `named_keys`.
        questions: the most questions in one sample of `named_keys`.
        earlier_share: how many samples have the length of an earlier stage.
        tokens_per_step: of all samples of a step together, in each process.
    """

    books: tuple[str, ...] = ()
    datasets: tuple[Dataset, ...] = ()
    book_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_keys: Positive = 16
    questions: Positive = 4
    earlier_share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    tokens_per_step: Positive = 8192
    mixture: Mixture = Mixture()


class Tokenizer(_Part):
    """A tokenizer that the run trains first, on its books.

    Attributes:
        vocab_size: tokens, the 256 bytes among them.
    """

    vocab_size: Annotated[int, Field(ge=256)]


class Optimizer(_Part):
    """AdamW.

    Attributes:
        learning_rate: of the matrices.
        memory_learning_rate: of gates, write strengths, decays and all vectors, which must move far: at 3e-4 a gate
            never opens.
        weight_decay: of the matrices.
        memory_weight_decay: of the others. It pulls a gate back to one half, and is here to show what that does.
        bptt_tokens: gradients go back through so many tokens; None means through the whole sample.
    """

    learning_rate: float = 2e-3
    memory_learning_rate: float = 1e-2
    weight_decay: float = 0.01
    memory_weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    warmup_steps: int = 50
    cooldown_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    bptt_tokens: Positive | None = None


class Loss(_Part):
    """What is learnt, beside the answers (weight 1).

    Attributes:
        text: weight of every other token.
        write_penalty: weight of the mean write strength, summed over layers: write only what matters.
    """

    text: Share = 0.2
    write_penalty: Share = 0.3


class Recipe(_Part):
    """A whole run.

    Attributes:
        name: of the run and its folder.
        seed: of the weights and the data.
        model: of `InfiniLlamaConfig`, its `infini` entry included.
        look_back: the heads of the first layer start out attending to the tokens 1, 2, 3, ... places before.
        tokenizer: "bytes", what `load_tokenizer` takes, or one to train.
        curriculum: stages, one after the other.
        save_every: steps between checkpoints.
        log_every: steps between entries of the log.
    """

    name: str
    seed: int = 0
    model: dict[str, Any]
    tokenizer: Literal["bytes"] | str | Tokenizer = "bytes"
    look_back: bool = False
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    loss: Loss = Loss()
    curriculum: tuple[Stage, ...] = Field(min_length=1)
    save_every: Positive = 200
    log_every: Positive = 20

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.curriculum)

    def stage_at(self, step: int) -> int:
        """The index of the stage that step `step` (from 0) belongs to."""
        for index, stage in enumerate(self.curriculum):
            if step < stage.steps:
                return index
            step -= stage.steps
        return len(self.curriculum) - 1

    def mixture_of(self, stage: int) -> Mixture:
        """Of stage number `stage`."""
        return self.curriculum[stage].mixture or self.data.mixture

    def write_penalty_at(self, step: int) -> float:
        """Of step `step` (from 0)."""
        own = self.curriculum[self.stage_at(step)].write_penalty
        return self.loss.write_penalty if own is None else own


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: a TOML file.
        changes: entries that replace those of the file, such as "optimizer.weight_decay=0.1"; a table is merged.

    Raises:
        ConfigError: naming the entry that is wrong.
    """
    try:
        entries = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a recipe in TOML ({error})") from error
    for change in changes:
        _merge(entries, _parse_change(change))
    books = entries.get("data", {}).get("books")
    if isinstance(books, list) and all(isinstance(book, str) for book in books):
        entries["data"]["books"] = [str(path.parent / book) for book in books]
    try:
        recipe = Recipe.model_validate(entries)
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {mistakes}") from error
    beside = tuple(dataset.beside(path.parent) for dataset in recipe.data.datasets)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"datasets": beside})})


def _parse_change(change: str) -> dict[str, Any]:
    name, equals, value = change.partition("=")
    if not equals:
        raise ConfigError(f"a change to a recipe looks like optimizer.weight_decay=0.1; got {change!r}")
    for line in (change, f"{name}={json.dumps(value)}"):  # a bare word is a string
        try:
            return tomllib.loads(line)
        except tomllib.TOMLDecodeError as error:
            mistake = error
    raise ConfigError(f"{change!r} is not an entry in TOML ({mistake})")


def _merge(entries: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(entries.get(name), dict):
            _merge(entries[name], value)
        else:
            entries[name] = value
