"""infini eval babilong: reasoning over facts among the sentences of a book."""

from collections.abc import Iterator
from enum import StrEnum
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
from infini_attention.cli.shared.counts import parse_lengths

NAME = "babilong"
TASKS = "qa1,qa2,qa3,qa4,qa5"


class Split(StrEnum):
    """Whose names the stories have."""

    seen = "seen"
    held_out = "held-out"


def run(
    model: common.Model = "",
    tasks: Annotated[
        str,
        typer.Option("--tasks", help=f"Some of {TASKS.replace(',', ', ')}.  [default: all]", show_default=False),
    ] = TASKS,
    split: Annotated[
        Split, typer.Option("--split", help="held-out has people, places and things that training never meets.")
    ] = Split.seen,
    lengths: Lengths = "4K",
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
    """Ask about people, places and things whose story is told between the sentences of a book.

    Our own simulation of the first five tasks of bAbI, in the manner of BABILong: where a person is (qa1), where a
    thing is (qa2) or was before (qa3), what lies in a direction of a place (qa4), who gave what to whom (qa5). A cell
    is one length and one task, and a length has room for 32 tokens of answer.

    Scored officially: the text before the first full stop must name the right word and no other one that could be an
    answer. A guess may be right, at best about one in six for a place: --memory off and --no-needle show how often.
    """
    sizes, subtasks = parse_lengths(lengths), tuple(part.strip() for part in tasks.split(","))
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    request = Request(options, haystack.value, tuple(haystack_file or ()), out)
    request.check(memory=memory is Switch.on)

    from infini_attention.data.babi import TASKS as KNOWN
    from infini_attention.evaluation.tasks.babilong import AXIS, BabilongTask
    from infini_attention.evaluation.tasks.ruler import check_subtasks

    check_subtasks(subtasks, KNOWN)
    twin, tokenizer = request.open_model()
    filler, with_memory = request.open_haystack(tokenizer), memory is Switch.on
    task = BabilongTask(tokenizer, filler, sizes, subtasks, split.value, samples, seed, with_memory, needle)
    settings: dict[str, Any] = {"subtasks": list(subtasks), "split": split.value, "needle": needle}
    label = split.value if split is Split.held_out else None
    result = request.run(task, twin, axis=AXIS, label=label, **settings)
    request.emit(result, as_json=as_json, lines=_table(result))


def _table(result: dict[str, Any]) -> Iterator[str]:
    """A line per task, and a column per length."""
    from infini_attention.evaluation.stats import wilson_interval

    yield f"\n{'tokens':<16}" + "".join(f"{length:>20,}" for length in result["lengths"])
    for task in sorted({cell["question"] for cell in result["cells"]}):
        cells = (
            with_interval(cell | {"interval": wilson_interval(cell["hits"], cell["answers"])})
            for cell in result["cells"]
            if cell["question"] == task
        )
        yield f"{task:<16}" + "".join(f"{cell:>20}" for cell in cells)
