"""What the demonstration found, in plain words and as a page."""

import shlex

from transformers import PreTrainedTokenizerBase

from infini_attention.data.recall import RecallSample
from infini_attention.errors import ConfigError
from infini_attention.evaluation.demo import as_text
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.report.heat_map import recall_figure, short
from infini_attention.evaluation.report.page import inline_svg, render

EXCERPT = 160  # characters before the needle, and after it


def demo_page(result: Record, excerpt: tuple[str, str, str], command: list[str]) -> str:
    """The report.

    Args:
        result: the figures, the environment included.
        excerpt: the text before the needle, the needle, the text after it.
        command: what was called, to be repeated.
    """
    try:
        picture, no_picture = inline_svg(recall_figure(result["grid"], axis="depth")), ""
    except ConfigError as error:  # matplotlib is an extra; the cells are there without it
        picture, no_picture = None, str(error)
    lengths, depths = (sorted({cell[name] for cell in result["grid"]}) for name in ("length", "depth"))
    return render(
        "demo.html",
        result=result,
        verdict=verdict(result),
        excerpt=excerpt,
        command=shlex.join(command),
        picture=picture,
        no_picture=no_picture,
        lengths=lengths,
        depths=depths,
        cells={(cell["length"], cell["depth"]): cell for cell in result["grid"]},
        short=short,
    )


def verdict(result: Record) -> str:
    """Whether the memory did it."""
    if not result["recalled"]:
        return "The model did not recall the key."
    if not result["recalled_memory_off"]:
        return "The model recalled the key; with its memory switched off it did not."
    where = "" if result["outside_window"] else ", for the key stood where attention still sees it"
    return f"The model gave the key, but with its memory switched off as well{where}: this does not show a memory."


def excerpt(tokenizer: PreTrainedTokenizerBase, sample: RecallSample) -> tuple[str, str, str]:
    """The text before the needle, the needle, and the text after it."""
    [(start, stop)], [(question, _)] = sample.needles, sample.questions
    parts = (slice(max(0, start - EXCERPT), start), slice(start, stop), slice(stop, min(stop + EXCERPT, question)))
    before, needle, after = (as_text(tokenizer, sample.token_ids[part]) for part in parts)
    before, after = before[-EXCERPT:], after[:EXCERPT]
    return before.partition(" ")[2] or before, needle, after.rpartition(" ")[0] or after  # whole words
