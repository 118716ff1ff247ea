"""infini eval: what a model remembers."""

from typing import Annotated, Any

import typer

from infini_attention.cli import (
    common,
    eval_babilong,
    eval_mqar,
    eval_perplexity,
    eval_retention,
    eval_ruler,
    eval_summary,
)
from infini_attention.cli.counts import parse_counts, parse_lengths
from infini_attention.cli.eval_options import (
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
from infini_attention.cli.evaluating import FullAttention, Request, lines_by_length

NAME = "eval"


app = typer.Typer(help="Measure what a model remembers, and its controls.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("passkey")
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


@app.command("keys")
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

    from infini_attention.evaluation.tasks.keys import AXIS, KeysTask, summarize_keys

    twin, tokenizer = request.open_model()
    filler, with_memory = request.open_haystack(tokenizer), memory is Switch.on
    task = KeysTask(tokenizer, filler, sizes, counts, questions, rewritten, samples, seed, with_memory)
    settings: dict[str, Any] = {"keys": list(counts), "questions": questions, "rewritten": rewritten}
    result = request.run(task, twin, axis=AXIS, summarize=summarize_keys, **settings)
    held = "{length:>12,} tokens: {keys:.1f} of {of} keys held, {keys_per_kilobyte:.3f} per kB of state"
    lines = [*lines_by_length(result), *(held.format(**row) for row in result["capacity"])]
    request.emit(result, as_json=as_json, lines=lines)


for _name, _command in (
    (eval_ruler.NEEDLE, eval_ruler.needle),
    (eval_ruler.RULER, eval_ruler.ruler),
    (eval_mqar.NAME, eval_mqar.run),
    (eval_retention.NAME, eval_retention.run),
    (eval_babilong.NAME, eval_babilong.run),
    (eval_perplexity.NAME, eval_perplexity.run),
    (eval_summary.NAME, eval_summary.run),
):
    app.command(_name)(_command)
