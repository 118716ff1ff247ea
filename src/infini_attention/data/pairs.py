"""Documents with a reference for each, such as a summary: from a file of JSON lines, or from a data set."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from infini_attention.data.documents import dataset_rows
from infini_attention.data.text import check_text
from infini_attention.errors import InputError


@dataclass(frozen=True)
class Pair:
    """A text, and what a good answer about it looks like."""

    document: str
    reference: str


@dataclass(frozen=True)
class Columns:
    """What the two are called."""

    document: str = "document"
    reference: str = "reference"


def file_pairs(path: Path, columns: Columns, limit: int | None = None) -> list[Pair]:
    """The pairs of a file of JSON lines, or the first `limit`.

    Raises:
        InputError: no such file, a line that is no object, a column that is missing or holds no text, or no line.
    """
    check_text(path)
    with path.open(encoding="utf-8") as file:
        lines = (line for line in file if line.strip())
        rows = ((f"{path}: line {number}", _object(path, number, line)) for number, line in enumerate(lines, 1))
        return _pairs(str(path), rows, columns, limit)


def dataset_pairs(name: str, split: str, columns: Columns, limit: int | None = None) -> list[Pair]:
    """The pairs of a data set, such as a hub id; it is streamed, and its code is never run.

    Raises:
        ConfigError: `datasets` is not installed.
        InputError: it cannot be loaded, or the columns hold no text.
    """
    rows = dataset_rows(name, max_rows=limit, split=split)
    return _pairs(name, ((f"{name}: row {number}", row) for number, row in enumerate(rows)), columns, limit)


def _pairs(name: str, rows: Iterable[tuple[str, Any]], columns: Columns, limit: int | None) -> list[Pair]:
    pairs = [
        Pair(_text(where, row, columns.document), _text(where, row, columns.reference))
        for where, row in islice(rows, limit)
    ]
    if not pairs:
        raise InputError(f"{name}: holds no document; expected at least one")
    return pairs


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}: line {number} is no JSON ({error}); expected an object in every line") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}: line {number} is no JSON object but {type(row).__name__}")
    return row


def _text(where: str, row: dict[str, Any], column: str) -> str:
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        there = ", ".join(sorted(row))
        raise InputError(f"{where}: column {column!r} must hold text; there are {there}: name the columns you mean")
    return text
