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
from infini_attention.evaluation.report.found_results import Found, merge_cells
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import subject_of
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
        model: an Infini model with a memory.
        tokenizer: its tokenizer.
        haystack: the book that keys are hidden in.
        text: gives the text whose loss is taken, of so many tokens.
        scale: of what is measured.
        name: of the model.
        found: what need not be measured.
        progress: a context for each part that is measured, which gives what is told how much of how much is done.

    Returns:
        name, facts, inspect (of `inspection.summarize`), recall (of `merge_cells`), tasks (those that were found),
        perplexity (of `perplexity_figures.summarize`); `file` in the latter and in inspect, and `files` in each of
        recall, where they were not measured now.
    """
    return {
        "name": name,
        "facts": facts(model),
        "inspect": found.inspect[0] if found.inspect else _inspect(model, tokenizer, haystack, scale, name, progress),
        "recall": merge_cells(found.passkey or list(_recall(model, tokenizer, haystack, scale, progress))),
        "tasks": found.tasks,
        "perplexity": found.perplexity[0] if found.perplexity else _losses(model, text, scale, progress),
    }


def facts(model: PreTrainedModel) -> Record:
    """What a model is, whatever it has learnt."""
    config, settings, layers = model.config, model.config.infini_settings, memory_layers(model)
    memory = [part for module in model.modules() if isinstance(module, InfiniMemory) for part in module.parameters()]
    return {
        "family": config.model_type.removeprefix("infini_"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "memory_parameters": sum(parameter.numel() for parameter in memory),
        "layers": config.num_hidden_layers,
        "layers_with_memory": len(layers),
        "vocabulary": config.vocab_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "rule": settings.rule,
        "segment_size": settings.segment_size,
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
    with progress("memory") as tell:
        return inspect(model, tokenizer, reading, name=name, on_piece=lambda done: tell(done, scale.tokens))


def _recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack,
    scale: Scale,
    progress: Progress,
) -> Iterator[Record]:
    for memory, lengths in ((True, scale.lengths), (False, scale.lengths[:1])):
        task = PasskeyTask(tokenizer, haystack, lengths, scale.depths, scale.samples, scale.seed, memory)
        with progress(f"recall, memory {'on' if memory else 'off'}") as tell:
            cells = run(task, subject_of(model), Journal(), on_sample=_first_two(tell))
        yield {"haystack": haystack.name, "memory": "on" if memory else "off", "needle": True, "cells": cells}


def _losses(model: PreTrainedModel, text: Callable[[int], Text], scale: Scale, progress: Progress) -> Record:
    texts = [text(scale.text_tokens)]
    with progress("loss") as tell:
        records = measure(model, texts, MODES, Journal(), on_piece=_first_two(tell))
    return summarize_losses(texts, records)


def _first_two(tell: Callable[[int, int], None]) -> Callable[[int, int, int], None]:
    return lambda done, of, _more: tell(done, of)
