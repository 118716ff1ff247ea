"""infini eval needle and infini eval ruler: tasks in the style of RULER, in which the model writes its answer."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from infini_attention.cli.eval.options import Lengths, Memory, Needle, Out, Samples, Seed, Switch
from infini_attention.cli.eval.request import FullAttention, Request
from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_lengths
from infini_attention.errors import ConfigError

NEEDLE, RULER = "needle", "ruler"
NEEDLES = "niah_single_1,niah_single_2,niah_single_3,niah_multikey_1,niah_multikey_2,niah_multikey_3,niah_multivalue"
NEEDLES += ",niah_multiquery"
TASKS = f"{NEEDLES},vt,cwe,fwe"

HaystackFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--haystack-file", help="The book that most tasks read; may be given several times.  [default: a novel]"
    ),
]


def _tasks(names: str) -> Any:
    """The option: all of them unless some are named."""
    text = f"Some of {names.replace(',', ', ')}.  [default: all]"
    return typer.Option("--tasks", help=text, show_default=False)


def needle(
    model: common.Model = "",
    tasks: Annotated[str, _tasks(NEEDLES)] = NEEDLES,
    lengths: Lengths = "4K",
    samples: Samples = 20,
    seed: Seed = 0,
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
    """Ask for numbers and UUIDs that are hidden in a text, as RULER's eight needle tasks do.

    A cell is one length and one task. Its score is the share of the expected strings that stand in what the model
    writes, greedily. niah_single_1 hides in the paper's five sentences again and again, niah_multikey_2 and _3 among
    other needles, the others in a book. A length has room for the answer, at most 30 tokens for one number and 128 for
    the others.

    These are the needle tasks of `infini eval ruler`: with the same --out, neither runs again what the other has run.
    A task with one string per sample has a 95 % interval, in brackets; the others a standard error, behind +-.
    """
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    files = tuple(haystack_file or ())
    result = _measure(NEEDLE, options, tasks, lengths, samples, seed, files, memory, needle, out)
    _emit(result, as_json)


def ruler(
    model: common.Model = "",
    tasks: Annotated[str, _tasks(TASKS)] = TASKS,
    lengths: Lengths = "4K",
    samples: Samples = 20,
    seed: Seed = 0,
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
    """Run all tasks in the style of RULER that need no data set, in haystacks of your own.

    The eight tasks of `infini eval needle`, a chain of variables (vt), the most common words of a list (cwe) and the
    most frequent words of a coded text (fwe); the accuracy is the mean over all. A cell is one length and one task. Its
    score is the share of the expected strings that stand in what the model writes, greedily. A length has room for the
    answer, at most 64 tokens for vt, 200 for cwe and 50 for fwe.

    With the same --out, what `infini eval needle` has run is not run again. A task with one string per sample has a
    95 % interval, in brackets; the others a standard error, behind +-. RULER's two tasks of reading comprehension,
    which need data sets, are left out.
    """
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    files = tuple(haystack_file or ())
    result = _measure(RULER, options, tasks, lengths, samples, seed, files, memory, needle, out)
    _emit(result, as_json)


def _measure(
    name: str,
    options: common.ModelOptions,
    tasks: str,
    lengths: str,
    samples: int,
    seed: int,
    files: tuple[Path, ...],
    memory: Switch,
    needle: bool,
    out: Path | None,
) -> dict[str, Any]:
    sizes, asked = parse_lengths(lengths), tuple(part.strip() for part in tasks.split(","))
    from infini_attention.data.ruler_text import KINDS, NEEDLES
    from infini_attention.evaluation.tasks.ruler import AXIS, RulerTask, check_subtasks, summarize_ruler

    check_subtasks(asked, NEEDLES if name == NEEDLE else KINDS)
    subtasks = tuple(each for each in KINDS if each in asked)
    haystacks = sorted({KINDS[each].haystack for each in subtasks})
    if files and "book" not in haystacks:
        raise ConfigError(f"--haystack-file is a book, which {', '.join(subtasks)} does not read; leave it out")
    request = Request(options, "+".join(haystacks), files, out)
    request.check(memory=memory is Switch.on)
    twin, tokenizer = request.open_model()
    fillers = {each: replace(request, haystack=each).open_haystack(tokenizer) for each in haystacks if each != "list"}
    task = RulerTask(tokenizer, fillers, sizes, subtasks, samples, seed, memory is Switch.on, needle)
    settings: dict[str, Any] = {"subtasks": list(subtasks), "needle": needle}
    return request.run(task, twin, axis=AXIS, summarize=summarize_ruler, name=name, **settings)


def _emit(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        common.emit(result, as_json=True)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    """For people: what was asked, then a line per subtask and a column per length."""
    names = ("task", "model", "attention", "trained_length", "haystack", "memory", "needle", "accuracy", "samples")
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
