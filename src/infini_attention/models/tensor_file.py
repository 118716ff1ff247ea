"""A safetensors file that says what it is: a format, a header, a checksum. Nothing in a file is ever executed.

Sessions and adapters are such files. Whatever a file claims is compared with what is expected before anything as large
as the claim is made.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from infini_attention.errors import InfiniError

_MAX_HEADER_BYTES = 16 << 20
_CODES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


@dataclass(frozen=True)
class FileKind:
    """A sort of file, and how its mistakes are told.

    Attributes:
        format: what the metadata of such a file says.
        noun: what it is called, with its article: "is not an adapter".
        file: the same in "no such adapter file".
        hint: where a right one comes from.
        error: raised for all mistakes.
        mode: permissions of a new one, less the umask.
    """

    format: str
    noun: str
    file: str
    hint: str
    error: type[InfiniError]
    mode: int = 0o666

    def write(self, path: Path, header: str, tensors: Mapping[str, Tensor], **metadata: str) -> None:
        """Writes a file, which appears whole or not at all. The same content gives the same bytes.

        Args:
            path: of the file; its folder must exist.
            header: any text.
            tensors: by name; no two of them may share their bytes.
            metadata: besides format, header and sha256.

        Raises:
            InfiniError: the kind's own; the disk is full, or the folder cannot be written.
        """
        whole = metadata | {"format": self.format, "header": header, "sha256": _sha256(header, tensors)}
        content = _in_order(save(dict(tensors), whole))
        try:
            replace_file(path, content, self.mode)
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
            reason = getattr(error, "strerror", None) or error
            raise self.error(f"{path}: could not be written ({reason}); nothing was changed") from error

    @contextlib.contextmanager
    def open(self, path: Path) -> "Iterator[TensorFile]":
        """A file of this kind; no tensor is read yet. Raises the kind's error for any other."""
        self._check_size(path)
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: a file too large to map
            raise self.error(f"{path} is not {self.noun}, or it is damaged ({error}); use another copy") from error
        with file:
            metadata = file.metadata() or {}
            if metadata.get("format") != self.format:
                raise self.error(
                    f"{path} is not {self.noun}: its format is {metadata.get('format')!r:.80}, expected "
                    f"{self.format!r}; {self.hint}"
                )
            yield TensorFile(self, path, metadata, file)

    def _check_size(self, path: Path) -> None:
        """Raises unless `path` is a file whose first eight bytes name a header that lies inside it."""
        try:
            if not path.is_file():
                raise self.error(f"{path}: no such {self.file}; {self.hint}")
            size = path.stat().st_size
            with path.open("rb") as file:
                start = file.read(8)
        except InfiniError:
            raise
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self.error(f"{path}: cannot be read ({reason}); name a file that can be") from error
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise self.error(f"{path} is not {self.noun}, or it was cut short: expected a safetensors file")


@dataclass(frozen=True)
class TensorFile:
    """An open file.

    Attributes:
        metadata: of which `header` is the caller's.
    """

    kind: FileKind
    path: Path
    metadata: dict[str, str]
    file: Any

    def tensors(self, expected: Mapping[str, Tensor], remedy: str) -> dict[str, Tensor]:
        """All tensors by name, on the CPU.

        Args:
            expected: of the same names, shapes and dtypes (any device, also `meta`); compared before anything is read.
            remedy: what to do where the file holds others.

        Raises:
            InfiniError: the kind's own; other tensors than those, or numbers that are not those of the checksum.
        """
        names = set(self.file.keys())
        lacks, strange = sorted(expected.keys() - names), sorted(names - expected.keys())
        if lacks or strange:
            raise self.kind.error(f"{self.path}: it lacks {few(lacks)}, and has {few(strange)} besides; {remedy}")
        for name, tensor in expected.items():
            part = self.file.get_slice(name)
            found, wanted = (part.get_dtype(), part.get_shape()), (_CODES[tensor.dtype], list(tensor.shape))
            if (found[0], list(found[1])) != wanted:
                raise self.kind.error(
                    f"{self.path}: {name} is {found[0]} {found[1]}, expected {wanted[0]} {wanted[1]}; {remedy}"
                )
        try:
            tensors = {name: self.file.get_tensor(name) for name in expected}
        except (SafetensorError, OSError, RuntimeError) as error:
            raise self.kind.error(f"{self.path}: cannot be read ({error}); use another copy") from error
        if self.metadata.get("sha256") != _sha256(self.metadata.get("header", ""), tensors):
            raise self.kind.error(f"{self.path} is damaged: its sha256 is not that of what it holds; use another copy")
        return tensors


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Puts `content` where `path` is, all of it or nothing, also if the machine stops. Raises `OSError`."""
    scratch = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


def few(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(f"{name:.80}" for name in names[:4]) + (", ..." if len(names) > 4 else "") if names else "nothing"


def _in_order(content: bytes) -> bytes:
    """The file with the entries of its header sorted: safetensors writes them in another order in each process."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + content[end:]


def _sha256(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Of the header and all numbers: a flipped bit would otherwise go unnoticed."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
