"""infini eval mqar: multi-query associative recall, accuracy against the number of pairs and the state's bytes."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from infini_attention.cli.eval.options import (
    Haystack,
    HaystackFile,
    HaystackName,
    Lengths,
    Memory,
    Needle,
    Out,
    Samples,
    Seed,
    Switch,
)
from infini_attention.cli.eval.request import FullAttention, Request, with_interval
from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_counts, parse_lengths

NAME = "mqar"


def run(
    model: common.Model = "",
    lengths: Lengths = "4K",
    pairs: Annotated[
        str, typer.Option("--pairs", help="How many keys have a value, such as 16 or 4,16,64.")
    ] = "4,16,64",
    questions: Annotated[int, typer.Option("--questions", min=1, help="At most so many per sample.")] = 64,
    vocabulary: Annotated[
        int, typer.Option("--vocabulary", min=2, help="At most so many tokens are a key or a value.")
    ] = 8192,
    samples: Samples = 20,
    seed: Seed = 0,
    haystack: Haystack = HaystackName.repeat,
    haystack_file: HaystackFile = None,
    memory: Memory = Switch.on,
    needle: Needle = True,
    out: Out = None,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    full_attention: FullAttention = False,
    as_json: common.AsJson = False,
) -> None:
    """Ask for the values of many keys, in the model's own tokens.

    Pairs of single tokens that mean nothing, then text that has none of these tokens, then the keys again. A cell is
    one length and one number of pairs; an answer is right where the value is the likeliest of all tokens. The result
    has chance (a guess among the values) and the curve beside the bytes of the state: compare models of equal bytes.
    """
    sizes, counts = parse_lengths(lengths), parse_counts("--pairs", pairs)
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    request = Request(options, haystack.value, tuple(haystack_file or ()), out)
    request.check(memory=memory is Switch.on)

    from infini_attention.evaluation.tasks.mqar import AXIS, MqarTask, summarize_mqar

    twin, tokenizer = request.open_model()
    filler, with_memory = request.open_haystack(tokenizer), memory is Switch.on
    task = MqarTask(
        tokenizer, filler, sizes, counts, questions, vocabulary, samples, seed, with_memory, with_needle=needle
    )
    settings: dict[str, Any] = {"pairs": list(counts), "questions": questions, "needle": needle}
    settings["vocabulary"] = len(task.tokens.keys) + len(task.tokens.values)
    result = request.run(task, twin, axis=AXIS, summarize=summarize_mqar, **settings)
    request.emit(result, as_json=as_json, lines=_table(result))


def _table(result: dict[str, Any]) -> Iterator[str]:
    """A line per number of pairs, and a column per length."""
    yield f"chance            {result['chance']:.4f}\n"
    yield f"{'pairs':<16}" + "".join(f"{length:>13,} tokens" for length in result["lengths"])
    for pairs in sorted({place["pairs"] for place in result["curve"]}):
        cells = (with_interval(place) for place in result["curve"] if place["pairs"] == pairs)
        yield f"{pairs:<16,}" + "".join(f"{cell:>20}" for cell in cells)
