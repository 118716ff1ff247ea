"""infini eval passkey, keys and facts: what is hidden in a haystack."""

from typing import TYPE_CHECKING, Annotated, Any

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
from infini_attention.cli.eval.request import FullAttention, Request, lines_by_length
from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_counts, parse_lengths

if TYPE_CHECKING:
    from infini_attention.evaluation.tasks.keys import KeysTask

PASSKEY, KEYS, FACTS = "passkey", "keys", "facts"


def passkey(
    model: common.Model = "",
    lengths: Lengths = "4K",
    depths: Annotated[int, typer.Option("--depths", min=1, help="Evenly from the beginning to the end.")] = 21,
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
    """Ask for a key that is hidden in a haystack.

    A cell is one length and one depth; only exact answers count.
    """
    sizes = parse_lengths(lengths)
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    request = Request(options, haystack.value, tuple(haystack_file or ()), out)
    request.check(memory=memory is Switch.on)

    from infini_attention.evaluation.tasks.passkey import PasskeyTask

    twin, tokenizer = request.open_model()
    filler, with_memory = request.open_haystack(tokenizer), memory is Switch.on
    task = PasskeyTask(tokenizer, filler, sizes, depths, samples, seed, with_memory, needle)
    result = request.run(task, twin, axis="depth", depths=depths, needle=needle)
    request.emit(result, as_json=as_json)


def keys(
    model: common.Model = "",
    lengths: Lengths = "4K",
    keys: Annotated[str, typer.Option("--keys", help="How many people have a key, such as 16 or 1,4,16.")] = "1,4,16",
    rewritten: Annotated[
        int, typer.Option("--rewritten", min=0, help="At most so many keys are written again; the latest counts.")
    ] = 0,
    questions: Annotated[int, typer.Option("--questions", min=1, help="At most so many per sample.")] = 8,
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
    """Ask for the keys of several people.

    A cell is one length and one number of keys; only exact answers count. The names are none of training's. The
    capacity is how many of all keys come back, where that is most, and that per kilobyte of state.
    """
    sizes, counts = parse_lengths(lengths), parse_counts("--keys", keys)
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    request = Request(options, haystack.value, tuple(haystack_file or ()), out)
    request.check(memory=memory is Switch.on)

    from infini_attention.evaluation.tasks.keys import KeysTask

    twin, tokenizer = request.open_model()
    filler, with_memory = request.open_haystack(tokenizer), memory is Switch.on
    task = KeysTask(tokenizer, filler, sizes, counts, questions, rewritten, samples, seed, with_memory, needle)
    _run(request, task, twin, {"rewritten": rewritten}, as_json=as_json)


def facts(
    model: common.Model = "",
    lengths: Lengths = "4K",
    facts: Annotated[str, typer.Option("--facts", help="How many are stated, such as 16 or 1,4,16.")] = "1,4,16",
    questions: Annotated[int, typer.Option("--questions", min=1, help="At most so many per sample.")] = 8,
    samples: Samples = 20,
    seed: Seed = 0,
    haystack: Haystack = HaystackName.book,
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
    """Ask about people in a book.

    Where somebody lives, what they eat, when they were born and the like, in sentences between those of a text; asked
    in the model's chat template. A cell is one length and one number of facts; only exact answers count. The names are
    none of training's. --no-needle says what guessing comes to.
    """
    sizes, counts = parse_lengths(lengths), parse_counts("--facts", facts)
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    request = Request(options, haystack.value, tuple(haystack_file or ()), out)
    request.check(memory=memory is Switch.on)

    from infini_attention.evaluation.tasks.keys import FactsTask

    twin, tokenizer = request.open_model()
    filler, with_memory = request.open_haystack(tokenizer), memory is Switch.on
    task = FactsTask(tokenizer, filler, sizes, counts, questions, 0, samples, seed, with_memory, needle)
    _run(request, task, twin, {}, as_json=as_json)


def _run(request: Request, task: "KeysTask", twin: Any, settings: dict[str, Any], *, as_json: bool) -> None:
    from infini_attention.evaluation.tasks.keys import summarize_keys

    axis = task.axis
    settings = {axis: list(task.counts), "questions": task.questions, **settings, "needle": task.with_needle}
    result = request.run(task, twin, axis=axis, summarize=summarize_keys, **settings)
    held = (
        f"{row['length']:>12,} tokens: {row[axis]:.1f} of {row['of']} {axis} held, "
        f"{row[f'{axis}_per_kilobyte']:.3f} per kB of state"
        for row in result["capacity"]
    )
    request.emit(result, as_json=as_json, lines=[*lines_by_length(result), *held])
