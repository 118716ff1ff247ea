"""Results of tasks as lines of a table, and as curves: what a report shows of them beside recall and loss."""

from collections.abc import Iterable, Sequence

from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.report.heat_map import short

TASKS = ("keys", "facts", "needle", "ruler", "mqar", "retention", "babilong", "summary")
NEEDED = {"task", "memory", "accuracy", "worst_cell", "samples", "outside_window_share", "state_bytes", "cells"}
NEEDED |= {"lengths", "file"}


def sort_tasks(results: Iterable[Record]) -> list[Record]:
    """In the order of `TASKS`, each control behind what it controls."""
    return sorted(
        results,
        key=lambda result: (
            TASKS.index(result["task"]),
            result.get("haystack", ""),
            result.get("split", ""),
            result["memory"] == "off",
            result.get("needle") is False,
            result["file"],
        ),
    )


def task_row(result: Record) -> Record:
    """What one line says of a result.

    Returns:
        name (task, haystack and split), control, lengths, samples, score, sure (low and high of the 95 % interval, or
        None), error (a standard error, or None), worst (score and place of the worst cell), outside, state_bytes, file.
    """
    worst = dict(result["worst_cell"])
    length = worst.pop("length", None)
    score = worst.pop("geometric_mean", worst.pop("exact", None))
    places = ([] if length is None else [short(length)]) + [f"{name} {value}" for name, value in worst.items()]
    control = ["memory off"] if result["memory"] == "off" else []
    control += ["no needle"] if result.get("needle") is False else []
    parts = (result["task"], result.get("haystack"), result.get("split"))
    lengths = sorted(set(result["lengths"]))
    some = lengths if len(lengths) <= 4 else [lengths[0], lengths[-1]]
    return {
        "name": " · ".join(part for part in parts if part),
        "control": ", ".join(control),
        "lengths": (" to " if len(lengths) > 4 else ", ").join(map(short, some)),
        "samples": result["samples"],
        "score": result["accuracy"],
        "sure": result.get("interval"),
        "error": result.get("standard_error"),
        "worst": score,
        "worst_place": ", ".join(places),
        "outside": result["outside_window_share"],
        "state_bytes": result["state_bytes"],
        "file": result["file"],
    }


def curves(reports: Sequence[Record], task: str) -> dict[str, Sequence[Record]]:
    """The curves of a task by model, haystack and control; of several results of a kind, the one with the most places.

    Args:
        reports: each with its title and tasks.
        task: `mqar` or `retention`.
    """
    found: dict[str, Sequence[Record]] = {}
    for report in reports:
        for result in report["tasks"]:
            if result["task"] != task:
                continue
            control = task_row(result)["control"]
            name = ", ".join(part for part in (report["title"], result["haystack"], control) if part)
            if len(result["curve"]) > len(found.get(name, ())):
                found[name] = result["curve"]
    return found
