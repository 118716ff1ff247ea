"""How a store writes a snapshot down: its parts as blobs named by their content, and a manifest that lists them."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from infini_attention.errors import SnapshotError
from infini_attention.sessions.snapshot import Layout, Part, Snapshot, Tensors
from infini_attention.sessions.snapshot_file import SnapshotHeader
from infini_attention.state import InfiniState

VERSION = 1
MAX_BYTES = 1 << 20  # of a manifest
_PART_OVERHEAD = 1 << 17  # of a part, beside its numbers: names and shapes
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DAMAGED = "is damaged: use another copy of the store"


@dataclass(frozen=True)
class Blob:
    """A name that says what is in it.

    Attributes:
        digest: SHA-256 of the content.
        nbytes: of the content.
    """

    digest: str
    nbytes: int

    def __post_init__(self) -> None:
        """Raises `ValueError`: digests become parts of paths, and come from files."""
        is_digest = isinstance(self.digest, str) and _DIGEST.fullmatch(self.digest) is not None
        if not (is_digest and type(self.nbytes) is int and 0 < self.nbytes < 2**63):
            raise ValueError(f"{self.digest!r:.80} of {self.nbytes!r:.20} bytes is no blob")


@dataclass(frozen=True)
class Manifest:
    """What a stored snapshot is made of.

    Attributes:
        parts: committed, latest, and the pieces of the window, as in `Snapshot`.
    """

    header: SnapshotHeader
    parts: tuple[Blob, ...]

    @classmethod
    def of(cls, header: SnapshotHeader, snapshot: Snapshot) -> "Manifest":
        return cls(header, tuple(Blob(*part.identity) for part in snapshot.parts))

    def encoded(self) -> bytes:
        """The same bytes for the same snapshot."""
        parts = [[blob.digest, blob.nbytes] for blob in self.parts]
        entries = {"version": VERSION, "header": asdict(self.header), "parts": parts}
        return json.dumps(entries, sort_keys=True).encode()

    @classmethod
    def decoded(cls, content: bytes, name: str) -> "Manifest":
        """Raises `SnapshotError` where it makes no sense. `name` is for the message."""
        try:
            entries = json.loads(content)
            version, header = entries["version"], entries["header"]
            parts = tuple(Blob(digest, nbytes) for digest, nbytes in entries["parts"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise SnapshotError(f"{name}: its manifest {_DAMAGED} ({str(error)[:200]})") from error
        if version != VERSION:
            raise SnapshotError(f"{name}: has version {version!r:.20}, this program reads version {VERSION}; update it")
        return cls(SnapshotHeader.from_entries(header, name), parts)

    def snapshot(
        self, states: Sequence[InfiniState], vocab_size: int, read: Callable[[Blob], Part], name: str
    ) -> Snapshot:
        """The snapshot, on the CPU.

        Args:
            states: empty ones of the model. Bytes are compared with them before anything is read, then all shapes.
            vocab_size: of the model.
            read: gives a part, checked against its digest.
            name: for messages.

        Raises:
            SnapshotError: a manifest whose parts do not fit the model, or each other.
        """
        if self.header.stats.tokens_read == 0:
            return Snapshot.start()
        layout = Layout.of(states, vocab_size, self.header.stats.tokens_read)
        expected = sum(tensor.nbytes for tensor in layout.all.values())
        found = sum(max(0, blob.nbytes - _PART_OVERHEAD) for blob in self.parts)
        used = next(iter(layout.window.values())).shape[1]
        if found > expected or not 3 <= len(self.parts) <= used + 3:  # a piece without slots may come first
            raise SnapshotError(
                f"{name}: has {found} bytes of state in {len(self.parts)} parts, this model's have {expected}; open it "
                "with the model it was made with"
            )
        committed, latest, *window = map(read, self.parts)
        slots = [_slots(piece.tensors, layout.window) for piece in window]
        pairs = [(committed, _kinds(layout.committed)), (latest, _kinds(layout.latest))]
        pairs += [(piece, _kinds(layout.window, count)) for piece, count in zip(window, slots, strict=True)]
        if any(_kinds(part.tensors) != kinds for part, kinds in pairs) or sum(slots) != used:
            raise SnapshotError(f"{name}: does not fit this model; open it with the model it was made with")
        return Snapshot(self.header.stats, self.header.digest, self.header.turns, committed, latest, tuple(window))


def part_of(content: bytes, blob: Blob, name: str) -> Part:
    """The part that a blob holds. Raises `SnapshotError` where the content is not what the digest says."""
    check_content(content, blob, name)
    try:
        return Part(load(content))
    except SafetensorError as error:
        raise SnapshotError(f"{name}: {_DAMAGED} ({error})") from error


def check_content(content: bytes, blob: Blob, name: str) -> None:
    """Raises `SnapshotError` unless this is what was written under that name."""
    if hashlib.sha256(content).hexdigest() != blob.digest:
        raise SnapshotError(f"{name}: {_DAMAGED} (the sha256 of {blob.digest[:12]} is another one)")


def _slots(piece: Tensors, window: Tensors) -> int:
    found = piece.get(next(iter(window)))
    return -1 if found is None or found.dim() != 4 else found.shape[1]


def _kinds(tensors: Tensors, slots: int | None = None) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """dtype and shape of each tensor; with `slots` in place of its second axis where they are given."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if slots is not None:
        shapes = {name: (shape[0], slots, *shape[2:]) for name, shape in shapes.items()}
    return {name: (tensors[name].dtype, shape) for name, shape in shapes.items()}
