"""A training run is a file: TOML, checked whole before anything starts."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from infini_attention.errors import ConfigError
from infini_attention.training.entries import Data, Lora, Loss, Mixture, Optimizer, Part, Positive, Stage, Tokenizer

# The recipe of `infini adapt`. It names no base and no books: the command adds them.
ADAPT_RECIPE = Path(__file__).with_name("adapt.toml")


class Recipe(Part):
    """A whole run: of a new model, or with `base` of the memory alone that a pretrained one is given.

    Attributes:
        name: of the run and its folder.
        seed: of the weights and the data.
        base: the pretrained model, as `load_model` takes it. Its own weights stay as they are.
        start: an adapter of the base, whose memory learns on; its settings take the place of those in `model`. Relative
            to the recipe's folder.
        model: of `InfiniLlamaConfig`, its `infini` entry included. With `base` that entry alone: settings of `convert`.
        dtype: of the base's weights; what is trained is float32.
        lora: changes of the base's weights that are trained too.
        look_back: the heads of the first layer start out attending to the tokens 1, 2, 3, ... places before.
        tokenizer: "bytes", what `load_tokenizer` takes, or one to train; the base's own, where there is a base.
        curriculum: stages, one after the other.
        save_every: steps between checkpoints.
        log_every: steps between entries of the log.
    """

    name: str
    seed: int = 0
    base: str | None = None
    start: str | None = None
    model: dict[str, Any] = Field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: Lora | None = None
    tokenizer: Literal["bytes"] | str | Tokenizer = "bytes"
    look_back: bool = False
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    loss: Loss = Loss()
    curriculum: tuple[Stage, ...] = Field(min_length=1)
    save_every: Positive = 200
    log_every: Positive = 20

    @model_validator(mode="before")
    @classmethod
    def _tokenizer_of_the_base(cls, entries: Any) -> Any:
        if isinstance(entries, dict) and isinstance(entries.get("base"), str):
            return {"tokenizer": entries["base"]} | entries
        return entries

    @model_validator(mode="after")
    def _lengths_stay_most_of_their_own(self) -> "Recipe":
        shortest = min(stage.length for stage in self.curriculum)
        if 2 * self.data.jitter > shortest:
            raise ValueError(
                f"data.jitter may be half of the shortest stage's {shortest} tokens; got {self.data.jitter}"
            )
        return self

    @model_validator(mode="after")
    def _new_or_pretrained(self) -> "Recipe":
        sizes = sorted(set(self.model) - {"infini"})
        if self.base is None:
            if not sizes:
                raise ValueError("a recipe needs the sizes of a new model in [model], or a pretrained one as base")
            if self.lora is not None or self.start is not None or self.dtype != "float32":
                raise ValueError(
                    "lora, start and dtype are about a pretrained model: name one as base, or leave them out"
                )
            return self
        if sizes:
            raise ValueError(f"with a base, [model] holds infini only; got {', '.join(sizes)}, which the base decides")
        if self.look_back:
            raise ValueError("look_back is a start for new weights; those of a base stay as they are: leave it out")
        if isinstance(self.tokenizer, Tokenizer):
            raise ValueError(
                "tokenizer.vocab_size asks for a new tokenizer, but a base knows its own alone: leave it out"
            )
        return self

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.curriculum)

    @property
    def longest(self) -> int:
        """Tokens of the longest samples."""
        return max(stage.length for stage in self.curriculum)

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


def load_recipe(path: Path, changes: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: a TOML file.
        changes: entries that replace those of the file, such as "optimizer.weight_decay=0.1"; a table is merged.
        options: the same as a table, merged before `changes`.

    Raises:
        ConfigError: naming the entry that is wrong.
    """
    try:
        entries = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a recipe in TOML ({error})") from error
    for change in (deepcopy(dict(options or {})), *map(_parse_change, changes)):
        _merge(entries, change)
    books = entries.get("data", {}).get("books")
    if isinstance(books, list) and all(isinstance(book, str) for book in books):
        entries["data"]["books"] = [str(path.parent / book) for book in books]
    if isinstance(entries.get("start"), str):
        entries["start"] = str(path.parent / entries["start"])
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


def _merge(entries: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(entries.get(name), dict):
            _merge(entries[name], value)
        else:
            entries[name] = value
