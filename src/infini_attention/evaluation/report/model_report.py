"""All that a report says about one model: what earlier runs found, and the rest measured now, on a small scale."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.evaluation.inspection import Reading, default_tokens, inspect
from infini_attention.evaluation.journal import Journal, Record
from infini_attention.evaluation.perplexity.figures import summarize as summarize_losses
from infini_attention.evaluation.perplexity.task import MODES, measure
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.plain import trained_length
from infini_attention.evaluation.plain_reading import read_plain
from infini_attention.evaluation.report.found_results import Found, merge_cells
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import is_infini_model, subject_of
from infini_attention.evaluation.tasks.passkey import PasskeyTask
from infini_attention.monitor.layer import memory_layers
from infini_attention.nn import InfiniMemory

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        tokens: read with a key planted in them.
        text_tokens: whose loss is taken.
        lengths, depths, samples: of the grid of recall. The control with the memory off has the first length alone.
        seed: of keys and filler.
    """

    tokens: int
    text_tokens: int
    lengths: tuple[int, ...]
    depths: int
    samples: int
    seed: int = 0

    @classmethod
    def of(cls, segment_size: int, *, quick: bool = False) -> "Scale":
        """What is measured unless asked otherwise; `quick` is for a first look."""
        length, tokens = max(2048, 4 * segment_size), default_tokens(segment_size)
        if quick:
            return cls(tokens, tokens, (length,), depths=3, samples=1)
        return cls(4 * tokens, max(1 << 16, 16 * segment_size), (length, 4 * length), depths=5, samples=2)

    def up_to(self, limit: int | None) -> "Scale":
        """No text of more than `limit` tokens; None limits nothing."""
        if limit is None:
            return self
        lengths = tuple(sorted({min(length, limit) for length in self.lengths}))
        counts = {"tokens": min(self.tokens, limit), "text_tokens": min(self.text_tokens, limit)}
        return self.replace(lengths=lengths, **counts)

    def replace(self, **changes: Any) -> "Scale":
        """With what is not None in `changes`."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def _quiet(what: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda done, of: None)


def report_on(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack,
    text: Callable[[int], Text],
    scale: Scale,
    *,
    name: str,
    found: Found,
    progress: Progress = _quiet,
) -> Record:
    """What a page shows of one model.

    Args:
        model: an Infini model with a memory, or a plain causal model: with its own cache, no memory, and no text longer
            than it was made for.
        tokenizer: its tokenizer.
        haystack: the book that keys are hidden in.
        text: gives the text whose loss is taken, of so many tokens.
        scale: of what is measured.
        name: of the model.
        found: what need not be measured.
        progress: a context for each part that is measured, which gives what is told how much of how much is done.

    Returns:
        name, facts, limit (of a plain model: tokens of the longest text that was measured now, where that is less than
        asked for; else None), inspect (of `inspection.summarize`), recall (of `merge_cells`), tasks (those that were
        found), perplexity (of `perplexity_figures.summarize`); `file` in the latter and in inspect, and `files` in each
        of recall, where they were not measured now.
    """
    asked, scale = scale, scale if is_infini_model(model) else scale.up_to(trained_length(model))
    return {
        "name": name,
        "limit": None if scale == asked else trained_length(model),
        "facts": facts(model),
        "inspect": found.inspect[0] if found.inspect else _inspect(model, tokenizer, haystack, scale, name, progress),
        "recall": merge_cells(found.passkey or list(_recall(model, tokenizer, haystack, scale, progress))),
        "tasks": found.tasks,
        "perplexity": found.perplexity[0] if found.perplexity else _losses(model, text, scale, progress),
    }


def facts(model: PreTrainedModel) -> Record:
    """What a model is, whatever it has learnt."""
    config = model.config.get_text_config(decoder=True)
    memory = [part for module in model.modules() if isinstance(module, InfiniMemory) for part in module.parameters()]
    return {
        "family": model.config.model_type.removeprefix("infini_"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "memory_parameters": sum(parameter.numel() for parameter in memory),
        "layers": config.num_hidden_layers,
        "layers_with_memory": len(memory_layers(model)),
        "vocabulary": config.vocab_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        **subject_of(model).about,
    }


def _inspect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack,
    scale: Scale,
    name: str,
    progress: Progress,
) -> Record:
    reading = Reading(haystack, scale.tokens, scale.seed)
    infini = is_infini_model(model)
    with progress("memory" if infini else "reading") as tell:

        def on_piece(done: int) -> None:
            tell(done, scale.tokens)

        if infini:
            return inspect(model, tokenizer, reading, name=name, on_piece=on_piece)
        return read_plain(model, reading, name=name, on_piece=on_piece)


def _recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack,
    scale: Scale,
    progress: Progress,
) -> Iterator[Record]:
    runs = ((True, scale.lengths), (False, scale.lengths[:1]))
    for memory, lengths in runs if is_infini_model(model) else runs[:1]:
        task = PasskeyTask(tokenizer, haystack, lengths, scale.depths, scale.samples, scale.seed, memory)
        with progress("recall" if memory else "recall, memory off") as tell:
            cells = run(task, subject_of(model), Journal(), on_sample=_first_two(tell))
        yield {"haystack": haystack.name, "memory": "on" if memory else "off", "needle": True, "cells": cells}


def _losses(model: PreTrainedModel, text: Callable[[int], Text], scale: Scale, progress: Progress) -> Record:
    texts, modes = [text(scale.text_tokens)], MODES if is_infini_model(model) else MODES[:1]
    with progress("loss") as tell:
        records = measure(model, texts, modes, Journal(), on_piece=_first_two(tell))
    return summarize_losses(texts, records)


def _first_two(tell: Callable[[int, int], None]) -> Callable[[int, int, int], None]:
    return lambda done, of, _more: tell(done, of)
