"""infini eval ruler: tasks in the style of RULER, in which the model writes its answer."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from infini_attention.cli import common
from infini_attention.cli.counts import parse_lengths
from infini_attention.cli.eval_options import Lengths, Memory, Needle, Out, Samples, Seed, Switch
from infini_attention.cli.evaluating import FullAttention, Request
from infini_attention.errors import ConfigError

NAME = "ruler"
TASKS = "niah_single_1,niah_single_2,niah_single_3,niah_multikey_1,niah_multivalue,niah_multiquery,vt"


def run(
    model: common.Model = "",
    tasks: Annotated[
        str, typer.Option("--tasks", help=f"Some of {TASKS.replace(',', ', ')}.  [default: all]", show_default=False)
    ] = TASKS,
    lengths: Lengths = "4K",
    samples: Samples = 20,
    seed: Seed = 0,
    haystack_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--haystack-file",
            help="The book that most tasks read; may be given several times.  [default: a novel]",
        ),
    ] = None,
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
    """Ask for numbers, UUIDs and variables, as RULER does, in haystacks of your own.

    A cell is one length and one task. Its score is the share of the expected strings that stand in what the model
    writes, greedily. Haystacks: niah_single_1 and vt have the paper's five sentences again and again, the others a
    book. A length has room for the answer, at most 30 tokens for one number, 64 for vt, and 128 for the others.

    A task with one string per sample has a 95 % interval, in brackets; the others a standard error, behind +-.
    """
    sizes, subtasks = parse_lengths(lengths), tuple(part.strip() for part in tasks.split(","))
    from infini_attention.data.ruler_text import KINDS
    from infini_attention.evaluation.ruler import AXIS, RulerTask, check_subtasks, summarize_ruler

    check_subtasks(subtasks)
    subtasks = tuple(name for name in KINDS if name in subtasks)
    haystacks = sorted({KINDS[name].haystack for name in subtasks})
    if haystack_file and "book" not in haystacks:
        raise ConfigError(f"--haystack-file is a book, which {', '.join(subtasks)} does not read; leave it out")
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    request = Request(options, "+".join(haystacks), tuple(haystack_file or ()), out)
    request.check(memory=memory is Switch.on)
    twin, tokenizer = request.open_model()
    fillers = {name: replace(request, haystack=name).open_haystack(tokenizer) for name in haystacks}
    task = RulerTask(tokenizer, fillers, sizes, subtasks, samples, seed, memory is Switch.on, needle)
    settings: dict[str, Any] = {"subtasks": list(subtasks), "needle": needle}
    result = request.run(task, twin, axis=AXIS, summarize=summarize_ruler, **settings)
    if as_json:
        common.emit(result, as_json=True)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    """For people: what was asked, then a line per subtask and a column per length."""
    names = ("task", "model", "attention", "haystack", "memory", "needle", "accuracy", "samples")
    shown = {name: result[name] for name in (*names, "outside_window_share", "state_bytes", "seconds")}
    common.emit(shown, as_json=False)
    print(f"\n{'tokens':<16}" + "".join(f"{length:>20,}" for length in result["lengths"]))
    for subtask in result["subtasks"]:
        cells = [_with_error(score) for score in result["scores"] if score["subtask"] == subtask]
        print(f"{subtask:<16}" + "".join(f"{cell:>20}" for cell in cells))


def _with_error(score: dict[str, Any]) -> str:
    """`85.0% (64 to 95)` or `85.0% +- 4.1%`; a single sample of several strings has no error."""
    share, error = f"{score['score']:.1%}", score.get("standard_error")
    if "interval" in score:
        return "{} ({:.0f} to {:.0f})".format(share, *(100 * border for border in score["interval"]))
    return share if error is None else f"{share} +- {error:.1%}"
