"""Results, one JSON line per cell: an evaluation that was stopped goes on where it was."""

import json
from pathlib import Path
from typing import Any

from infini_attention.errors import InputError

Record = dict[str, Any]


class Journal:
    """A file of records that only grows.

    Args:
        path: the file, made with the first record; None keeps the records in memory.

    Raises:
        InputError: a file that holds something else, or cannot be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.records: list[Record] = []
        if path is None or not path.exists():
            return
        try:
            whole, end, rest = path.read_bytes().rpartition(b"\n")
            self.records = [json.loads(line) for line in whole.splitlines()]
            if not all(isinstance(record, dict) for record in self.records) or (rest and not rest.startswith(b"{")):
                raise ValueError("expected a JSON object in every line")
            if rest:  # a line that was never finished
                with path.open("r+b") as file:
                    file.truncate(len(whole + end))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: is no file of results ({error}); move it away, or choose another folder"
            ) from error

    def find(self, key: Record) -> Record | None:
        """The first record that has all entries of `key`."""
        for record in self.records:
            if all(name in record and record[name] == value for name, value in key.items()):
                return record
        return None

    def append(self, record: Record) -> None:
        """Adds a record. Raises `InputError` where it cannot be written."""
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                raise InputError(
                    f"{self.path}: could not be written ({error.strerror}); finished cells stay"
                ) from error
        self.records.append(record)
