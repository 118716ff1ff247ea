"""The file format of adapters: safetensors with a versioned header. Nothing in a file is ever executed."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from infini_attention.errors import ModelError
from infini_attention.models.config import InfiniSettings

FORMAT, VERSION = "infini-adapter", 1
_MAX_HEADER_BYTES = 16 << 20
# What the entries of a header may be, by name. What a setting may be is seen from its default.
_KINDS = {"version": int, "base_name": str, "base": str, "settings": dict, "lora": dict | None, "about": dict}
_LORA_KINDS = {"r": int, "lora_alpha": int | float, "target_modules": list}
_SETTING_KINDS = {name: type(value) for name, value in InfiniSettings().to_dict().items()} | {"layers": list | None}


@dataclass(frozen=True)
class AdapterHeader:
    """What an adapter says about itself.

    Attributes:
        base_name: what the base model was called; a hint for people.
        base: SHA-256 over the names and shapes of the base model's parameters.
        settings: the twin's `config.infini`.
        lora: `r`, `lora_alpha` and `target_modules` of PEFT's configuration, the modules by their full names; None
            without a LoRA.
        about: where the adapter comes from, as its maker put it.
        version: of the format.
    """

    base_name: str
    base: str
    settings: dict[str, Any]
    lora: dict[str, Any] | None
    about: dict[str, Any]
    version: int = VERSION


def read_adapter_header(path: str | Path) -> AdapterHeader:
    """The header alone; no tensor is read. Raises `ModelError` where the file is missing, damaged or no adapter."""
    with _opened(Path(path)) as file:
        return _header(Path(path), file.metadata() or {})


def read_adapter_tensors(path: Path, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """All tensors of an adapter, float32, by name.

    Args:
        path: of the file.
        shapes: what is expected; the file's names, dtypes and shapes are compared with it before anything is read.

    Raises:
        ModelError: other tensors than those, or a damaged file.
    """
    with _opened(path) as file:
        names = set(file.keys())
        lacks, strange = sorted(shapes.keys() - names), sorted(names - shapes.keys())
        if lacks or strange:
            raise ModelError(
                f"{path} does not fit its own header: it lacks {_few(lacks)}, and has {_few(strange)} besides"
            )
        for name, shape in shapes.items():
            found = file.get_slice(name)
            if (found.get_dtype(), list(found.get_shape())) != ("F32", shape):
                raise ModelError(f"{path}: {name} is {found.get_dtype()} {found.get_shape()}, expected F32 {shape}")
        tensors, metadata = {name: file.get_tensor(name) for name in shapes}, file.metadata() or {}
    if metadata.get("sha256") != _sha256(metadata.get("header", ""), tensors):
        raise ModelError(f"{path} is damaged: its sha256 is not that of what it holds; use another copy")
    return tensors


def write_adapter(path: Path, header: AdapterHeader, tensors: dict[str, Tensor]) -> None:
    """Writes float32 tensors; the file appears whole or not at all. The same content gives the same bytes.

    Raises:
        ModelError: the disk is full, or the folder cannot be written.
    """
    entries = json.dumps(asdict(header), sort_keys=True)
    content = _in_order(save(tensors, {"format": FORMAT, "header": entries, "sha256": _sha256(entries, tensors)}))
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{path}: could not be written ({error.strerror}); nothing was changed") from error


def _in_order(content: bytes) -> bytes:
    """The file with the entries of its header sorted: safetensors writes them in another order in each process."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + content[end:]


def _sha256(header: str, tensors: dict[str, Tensor]) -> str:
    """Of the header and all numbers: a flipped bit would otherwise go unnoticed."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file, whose header is known to lie inside it."""
    if not path.is_file():
        raise ModelError(f"{path}: no such adapter file; expected a .safetensors file, or `none` for no adapter")
    try:
        with path.open("rb") as raw:
            start, size = raw.read(8), path.stat().st_size
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise ModelError(f"{path} is not an adapter, or it was cut short: expected a safetensors file")
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: a file too large to map
        raise ModelError(f"{path} is not an adapter, or it is damaged ({error}); use another copy") from error
    with file:
        yield file


def _header(path: Path, metadata: dict[str, str]) -> AdapterHeader:
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path} is not an adapter: its format is {metadata.get('format')!r}, expected {FORMAT!r}")
    try:
        entries = json.loads(metadata["header"])
        version = entries["version"]
        if version == VERSION:
            _check_types(entries, _KINDS)
            settings, lora = InfiniSettings.from_dict(entries["settings"]).to_dict(), entries["lora"]
            _check_types(settings, _SETTING_KINDS)
            if not all(type(layer) is int for layer in settings["layers"] or ()):
                raise TypeError("layers must be numbers")
            if lora is not None:
                _check_types(lora, _LORA_KINDS)
                if lora["r"] < 1 or not lora["target_modules"] or {*map(type, lora["target_modules"])} != {str}:
                    raise TypeError("lora must have r of at least 1, and the names of its modules")
            return AdapterHeader(**entries | {"settings": settings})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its header is damaged ({str(error)[:200]}); use another copy") from error
    raise ModelError(f"{path} has version {version!r}, this program reads version {VERSION}: update it")


def _check_types(entries: dict[str, Any], kinds: dict[str, Any]) -> None:
    """JSON from outside: these names, each of its kind, and no number beyond any measure. Raises `TypeError`."""
    if entries.keys() != kinds.keys():
        raise TypeError(f"expected the entries {_few(sorted(kinds))}; got {_few(sorted(entries))}")
    for name, value in entries.items():
        kind = int | float if kinds[name] is float else kinds[name]
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits or (isinstance(value, int | float) and not abs(value) < 2**63):
            raise TypeError(f"{name} is {value!r:.80}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "nothing"
