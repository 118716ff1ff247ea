"""The page of a report: what was measured about one model, or about several side by side."""

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.report import memory_pictures as pictures
from infini_attention.evaluation.report.heat_map import recall_figure, short
from infini_attention.evaluation.report.page import inline_svg, render
from infini_attention.evaluation.report.picture_cards import OF_MEMORIES, card, heads_height
from infini_attention.evaluation.report.recall_pictures import forgetting, pairs
from infini_attention.evaluation.report.task_rows import curves, task_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = {"full": "full attention", "recurrent": "a state of its own", "hybrid": "attention and a state of its own"}
TASK_PICTURES = ((forgetting, "retention"), (pairs, "mqar"))


def model_page(reports: Sequence[Record], environment: Record, command: Sequence[str]) -> str:
    """The report.

    Args:
        reports: of `report_on`, one per model.
        environment: where it was made.
        command: what was called, to be repeated.
    """
    titles = _titles(reports)
    reports = [report | {"title": title} for report, title in zip(reports, titles, strict=True)]
    try:
        drawn, no_picture = _draw(reports), ""
    except ConfigError as error:  # matplotlib is an extra; the figures are there without it
        drawn, no_picture = None, str(error)
    return render(
        "report.html",
        result=environment,
        reports=reports,
        tasks=[[task_row(result) for result in report["tasks"]] for report in reports],
        verdicts=[verdict(report) for report in reports],
        pictures=drawn,
        no_picture=no_picture,
        command=shlex.join(command),
        short=short,
        percent=percent,
        number=number,
        kept=kept,
        base=lambda name: Path(name).name,
    )


def verdict(report: Record) -> str:
    """What the memory of a model is worth for recall, with its controls, in a sentence."""
    on = [part for part in report["recall"] if part["memory"] == "on" and part["needle"]]
    off = [part for part in report["recall"] if part["memory"] == "off"]
    if not on:
        return "Recall was not measured."
    answers = sum(part["answers"] for part in on)
    hits = sum(cell["hits"] for part in on for cell in part["cells"])
    words = f"{percent(hits / answers)} of {answers:,} keys recalled, worst cell "
    words += percent(min(part["worst_cell"]["exact"] for part in on))
    if off:
        asked = sum(part["answers"] for part in off)
        recalled = sum(cell["hits"] for part in off for cell in part["cells"])
        words += f"; with the memory off {percent(recalled / asked)} of {asked:,}"
    return words + "."


def percent(share: float | None) -> str:
    """0.125 as 12.5 %; 1 as 100 %."""
    if share is None:
        return "-"
    return f"{share:.0%}".replace("%", " %") if share in (0, 1) else f"{share:.1%}".replace("%", " %")


def number(value: float | None, digits: int = 3) -> str:
    """To so many significant digits; small ones as powers of ten."""
    return "-" if value is None else f"{value:,.{digits}g}"


def kept(report: Record) -> str | None:
    """What a model without a memory keeps instead; None for one that has a memory."""
    return KEPT.get(report["facts"]["attention"])


def _titles(reports: Sequence[Record]) -> list[str]:
    """Short ones, where they tell the models apart."""
    marks = [f" ({kept(report)})" if kept(report) else "" for report in reports]
    names = [report["name"] + mark for report, mark in zip(reports, marks, strict=True)]
    titles = [(Path(report["name"]).name or report["name"]) + mark for report, mark in zip(reports, marks, strict=True)]
    return titles if len(set(titles)) == len(titles) else [f"{number}: {name}" for number, name in enumerate(names, 1)]


def _draw(reports: Sequence[Record]) -> dict[str, Any]:
    """All pictures: those that all models share by name, `heads` and `recall` as lists per model."""
    streams = {report["title"]: report["inspect"] for report in reports}
    memories = {report["title"]: report["inspect"] for report in reports if kept(report) is None}
    positions = {report["title"]: report["perplexity"]["positions"] for report in reports}

    def shared(draw: Callable[..., None], *values: Any) -> str:
        return inline_svg(card(lambda axes: draw(axes, *values)))

    return {
        **{draw.__name__: shared(draw, memories) for draw in OF_MEMORIES if memories},
        "footprint": shared(pictures.footprint, streams),
        "losses": shared(pictures.losses, positions),
        "heads": [
            [_heads(report, name) for name in ("gate", "memory_share")] if kept(report) is None else []
            for report in reports
        ],
        "tasks": [shared(draw, found) for draw, task in TASK_PICTURES if (found := curves(reports, task))],
        "recall": [[_recall(part) for part in report["recall"] if _shown(part)] for report in reports],
    }


def _heads(report: Record, name: str) -> str:
    layers = report["inspect"]["layers"]
    draw = partial(pictures.heads, layers=layers, name=name)
    return inline_svg(card(draw, height=heads_height(layers)))


def _shown(part: Record) -> bool:
    """Maps are of what a model recalls; a control should be a field of red, which a line of a table says as well."""
    return part["memory"] == "on" and bool(part["needle"])


def _recall(part: Record) -> str:
    figure: Figure = recall_figure(part["cells"], axis="depth", title=f"haystack: {part['haystack']}")
    return inline_svg(figure)
