"""A session's state as one safetensors file with a versioned header. Nothing in it is ever executed."""

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_origin

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from infini_attention.errors import SnapshotError
from infini_attention.sessions.stats import ReadStats
from infini_attention.state import InfiniState, Memory

FORMAT = "infini-attention session"
VERSION = 1
_MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True)
class SnapshotHeader:
    """What a snapshot says about itself.

    Attributes:
        model: what the session was opened with: a path, a name or a hub id.
        fingerprint: of the model's weights and settings.
        settings: the model's `config.infini`, to convert a base model alike.
        stats: what was read.
        digest_chain, digest_pending: see `TokenDigest`.
        turns: messages of a chat that were replied to.
        adapter: that gave the model its memory: a file, `default` for the one that comes with this package, or nothing.
    """

    model: str
    fingerprint: str
    settings: dict[str, Any]
    stats: ReadStats
    digest_chain: str
    digest_pending: list[int]
    turns: int = 0
    adapter: str = ""


def save_snapshot(path: Path, header: SnapshotHeader, states: tuple[InfiniState, ...], logits: Tensor) -> None:
    """Writes a snapshot; the file appears whole or not at all.

    Raises:
        SnapshotError: the disk is full, or the folder cannot be written.
    """
    tensors = {"logits": logits.contiguous()}
    for layer, state in enumerate(states):
        tensors |= {f"layers.{layer}.{name}": tensor.clone() for name, tensor in _named(state).items()}
    entries = json.dumps(asdict(header))
    metadata = {"format": FORMAT, "version": str(VERSION), "header": entries, "sha256": _sha256(entries, tensors)}
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            scratch = Path(file.name)
            try:
                file.write(save(tensors, metadata))
                file.flush()
                os.fsync(file.fileno())
                scratch.replace(path)
            except BaseException:
                scratch.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise SnapshotError(f"{path}: could not be written ({error.strerror}); nothing was changed") from error


def read_header(path: Path) -> SnapshotHeader:
    """The header alone; allocates nothing else. Raises `SnapshotError` where the file is not a whole snapshot."""
    _check_size(path)
    with _opened(path) as file:
        return _header(path, file.metadata() or {})


def load_snapshot(
    path: Path, expected: tuple[InfiniState, ...], vocab_size: int
) -> tuple[tuple[InfiniState, ...], Tensor]:
    """The states of all layers and the next-token logits `[V]`.

    Args:
        path: of the file; `read_header` says whose model it belongs to.
        expected: empty states of the model; names, shapes and dtypes are compared with them before anything is read.
        vocab_size: of the model.

    Raises:
        SnapshotError: a file that is damaged, or does not fit the model.
    """
    _check_size(path)
    wanted = {"logits": torch.empty(vocab_size, device="meta")}
    for layer, state in enumerate(expected):
        wanted |= {f"layers.{layer}.{name}": tensor for name, tensor in _named(state).items()}
    with _opened(path) as file:
        if set(file.keys()) != set(wanted):
            raise SnapshotError(
                f"{path}: has other tensors than this model's sessions; open it with the model it was made with"
            )
        for name, tensor in wanted.items():
            found = file.get_slice(name)
            dtype = _DTYPES.get(found.get_dtype())
            if list(found.get_shape()) != list(tensor.shape) or dtype != tensor.dtype:
                raise SnapshotError(
                    f"{path}: {name} is {found.get_dtype()} {found.get_shape()}, expected {tensor.dtype} "
                    f"{list(tensor.shape)}; open it with the model it was made with"
                )
        tensors = {name: file.get_tensor(name) for name in wanted}
        metadata = file.metadata() or {}
    if metadata.get("sha256") != _sha256(metadata.get("header", ""), tensors):
        raise SnapshotError(f"{path}: is damaged: its sha256 is not that of what it holds; use another copy")
    states = []
    for layer, state in enumerate(expected):
        named = {name: tensors[f"layers.{layer}.{name}"] for name in _named(state)}
        states.append(_state(named).to(state.keys.device))
    return tuple(states), tensors["logits"]


_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64}


def _sha256(header: str, tensors: dict[str, Tensor]) -> str:
    """Of the header and all numbers: a flipped bit would otherwise go unnoticed."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _named(state: InfiniState) -> dict[str, Tensor]:
    named = {"keys": state.keys, "values": state.values, "tokens_seen": state.tokens_seen}
    for name, memory in (("committed", state.committed), ("running", state.running)):
        named[f"{name}.matrix"] = memory.matrix
        if memory.normalizer is not None:
            named[f"{name}.normalizer"] = memory.normalizer
    return named


def _state(named: dict[str, Tensor]) -> InfiniState:
    committed, running = (
        Memory(named[f"{name}.matrix"], named.get(f"{name}.normalizer")) for name in ("committed", "running")
    )
    return InfiniState(committed, running, named["keys"], named["values"], named["tokens_seen"])


def _check_size(path: Path) -> None:
    """Raises unless `path` is a file whose first eight bytes name a header that lies inside it."""
    if not path.is_file():
        raise SnapshotError(f"{path}: no such session file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror})") from error
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise SnapshotError(f"{path}: is not a session file, or it was cut short")


@contextlib.contextmanager
def _opened(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: a file too large to map
        raise SnapshotError(f"{path}: is not a session file, or it is damaged ({error})") from error


def _header(path: Path, metadata: dict[str, str]) -> SnapshotHeader:
    if metadata.get("format") != FORMAT:
        raise SnapshotError(f"{path}: is not a session file; `infini read ... -o FILE` makes one")
    if metadata.get("version") != str(VERSION):
        raise SnapshotError(f"{path}: has version {metadata.get('version')!r}, this program reads version {VERSION}")
    try:
        entries = json.loads(metadata["header"])
        header = SnapshotHeader(**entries | {"stats": ReadStats(**entries["stats"])})
        _check_types(header)
        _check_types(header.stats)
        if not all(isinstance(token, int) and 0 <= token < 2**63 for token in header.digest_pending):
            raise TypeError("digest_pending must be token ids")
        return header
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SnapshotError(f"{path}: its header is damaged ({error})") from error


def _check_types(entry: Any) -> None:
    """JSON from outside: each field must be what the dataclass says, and no count negative."""
    for field in fields(entry):
        value, kind = getattr(entry, field.name), get_origin(field.type) or field.type
        fits = isinstance(value, (int, float) if kind is float else kind)  # type: ignore[arg-type]
        if not fits or (isinstance(value, int | float) and not 0 <= value < 2**63):
            raise TypeError(f"{field.name} is {value!r}")
