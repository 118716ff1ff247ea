"""Marks and probes as JSON lines: written while a model reads, so that what was seen survives whatever happens."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedModel

from infini_attention.errors import InputError
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.states import full_kv_bytes
from infini_attention.monitor.states import Record

FORMAT, VERSION = "infini-attention monitor", 1


def about_model(model: PreTrainedModel, name: str) -> Record:
    """What figures of a stream need to know of the model that read it."""
    settings = model.config.infini_settings
    return {
        "model": name,
        "fingerprint": fingerprint(model),
        "rule": settings.rule,
        "segment_size": settings.segment_size,
        "full_kv_bytes_per_token": full_kv_bytes(model, 1),
    }


class MonitorFile:
    """A file of one stream: a header, then a line per record. What stood in it is replaced.

    Args:
        path: of the file.
        about: of `about_model`.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, path: Path, about: Record) -> None:
        self.path = path
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise self._failed(error) from error
        self.write({"format": FORMAT, "version": VERSION, **about})

    def write(self, record: Record) -> None:
        """A line, at once on its way to the disk: a reader may follow it."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _failed(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: could not be written ({error.strerror}); name another file, or make room")


@dataclass
class Recording:
    """A stream that was watched.

    Attributes:
        about: of `about_model`.
        marks, probes: of `Collector`.
    """

    about: Record
    marks: list[Record] = field(default_factory=list)
    probes: list[Record] = field(default_factory=list)


def read_recording(path: Path) -> Recording:
    """What a `MonitorFile` holds; a last line that was never finished is left out.

    Raises:
        InputError: another file, or a damaged one.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
        header, *records = [json.loads(line) for line in lines]
        recording = Recording(_checked_header(header))
        for record in records:
            if "mark" in record:
                recording.marks.append(_with(record["mark"], "tokens", "tokens_in_window", "state_bytes", "layers"))
            else:
                recording.probes.append(_with(record["probe"], "tokens", "segments", "cosine", "control", "layers"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: is no file of `infini read --monitor-file` ({error}); expected JSON lines that begin with "
            f'"format": "{FORMAT}"'
        ) from error
    if not recording.marks:
        raise InputError(f"{path}: holds no mark: the model had read nothing yet; read on, or name another file")
    return recording


def _checked_header(header: Any) -> Record:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("its first line is another one")
    if header.get("version") != VERSION:
        raise ValueError(f"it has version {header.get('version')!r}, this program reads version {VERSION}")
    return _with(header, "model", "fingerprint", "rule", "segment_size", "full_kv_bytes_per_token")


def _with(record: Record, *names: str) -> Record:
    missing = [name for name in names if name not in record]
    if missing:
        raise KeyError(f"without {', '.join(missing)}")
    return record
