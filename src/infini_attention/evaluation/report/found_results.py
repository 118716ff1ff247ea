"""Results of earlier runs in a folder, found again by the fingerprint of their model: nothing is measured twice."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infini_attention.errors import InputError
from infini_attention.evaluation import inspection
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.perplexity import task as perplexity
from infini_attention.evaluation.report.task_rows import NEEDED, TASKS, sort_tasks
from infini_attention.evaluation.stats import wilson_interval_of_mean
from infini_attention.evaluation.tasks import passkey
from infini_attention.monitor.file import FORMAT, read_recording

PARTS = (passkey.PasskeyTask.name, perplexity.NAME, inspection.TASK)  # of every report
GROUP = ("haystack", "memory", "needle")


@dataclass
class Found:
    """What there is about one model, each with the `file` that it came from.

    Attributes:
        passkey: results of `infini eval passkey`.
        perplexity: of `infini eval perplexity`, those of the longest texts first.
        inspect: of `infini inspect`, or recordings of `infini read --monitor-file`; those over the most tokens first.
        tasks: of the other tasks of `infini eval`, each control behind what it controls.
    """

    passkey: list[Record] = field(default_factory=list)
    perplexity: list[Record] = field(default_factory=list)
    inspect: list[Record] = field(default_factory=list)
    tasks: list[Record] = field(default_factory=list)


def find_results(folders: Iterable[Path], fingerprint: str) -> Found:
    """The results for one model in folders and all below them; files about anything else are left alone.

    Raises:
        InputError: no such folder.
    """
    found = Found()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; --results expects one with results of `infini eval ... --out`")
        for path in sorted(folder.rglob("*.json*")):
            result = _read(path)
            if result is None or result.get("fingerprint") != fingerprint:
                continue
            result |= {"file": str(path)}
            if result["task"] in PARTS:
                getattr(found, result["task"]).append(result)
            elif result.keys() >= NEEDED:
                found.tasks.append(result)
    found.perplexity.sort(key=lambda result: -result["tokens_read"])
    found.tasks = sort_tasks(found.tasks)
    found.inspect.sort(key=lambda result: -result["metrics"]["sequence_length"]["tokens_seen"])
    return found


def merge_cells(results: Sequence[Record]) -> list[Record]:
    """Recall by haystack and control: the cells of all results, those of one length and depth put together.

    Returns:
        haystack, memory and needle; cells, each with length, depth, exact, hits and answers; answers (of all), accuracy
        (the mean over cells), interval (of that mean, Wilson, 95 %), worst_cell, outside_window_share, files.
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    for result in results:
        groups.setdefault(tuple(result.get(name, True) for name in GROUP), []).append(result)
    merged = [dict(zip(GROUP, group, strict=True)) | _merged(members) for group, members in groups.items()]
    # Each haystack's control below it.
    return sorted(merged, key=lambda part: (part["haystack"], part["memory"] == "off", not part["needle"]))


def _merged(results: Sequence[Record]) -> Record:
    counts: dict[tuple[int, float], list[int]] = {}
    for cell in (cell for result in results for cell in result["cells"]):
        sums = counts.setdefault((cell["length"], cell["depth"]), [0, 0, 0])
        for place, name in enumerate(("hits", "answers", "outside_window")):
            sums[place] += cell[name]
    cells = [
        {"length": length, "depth": depth, "exact": hits / answers, "hits": hits, "answers": answers}
        for (length, depth), (hits, answers, _) in sorted(counts.items())
    ]
    _, answers, outside = (sum(column) for column in zip(*counts.values(), strict=True))
    return {
        "cells": cells,
        "answers": answers,
        "accuracy": sum(cell["exact"] for cell in cells) / len(cells),
        "interval": list(wilson_interval_of_mean([(hits, answers) for hits, answers, _ in counts.values()])),
        "worst_cell": min(cells, key=lambda cell: cell["exact"]),
        "outside_window_share": outside / answers,
        "files": [result["file"] for result in results if "file" in result],
    }


def _read(path: Path) -> Record | None:
    """A result, or a recording as one; None for any other file."""
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix == ".jsonl":
                return inspection.summarize(read_recording(path)) if FORMAT in file.readline() else None
            result = json.load(file) if path.suffix == ".json" else None
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("task") in PARTS + TASKS else None
