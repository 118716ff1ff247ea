"""A session's state as one safetensors file with a versioned header. Nothing in it is ever executed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_origin

import torch
from torch import Tensor

from infini_attention.errors import SnapshotError
from infini_attention.models.tensor_file import FileKind, TensorFile
from infini_attention.sessions.digest import TokenDigest
from infini_attention.sessions.migrations import migrations_from
from infini_attention.sessions.snapshot import Layout, Part, Snapshot
from infini_attention.sessions.stats import ReadStats
from infini_attention.state import InfiniState

VERSION = 2
_KIND = FileKind(
    "infini-attention session",
    "a session file",
    "session file",
    "`infini read ... -o FILE` makes one",
    SnapshotError,
    mode=0o600,  # what was read can be asked for
)
_OTHER_MODEL = "open it with the model it was made with"


@dataclass(frozen=True)
class SnapshotHeader:
    """What a snapshot says about itself.

    Attributes:
        model: what the session was opened with: a path, a name or a hub id.
        fingerprint: of the model's weights and settings.
        settings: the model's `config.infini`, to convert a base model alike: rule, segment size and the rest.
        dtype: of the keys and values, such as "float32"; "unknown" in files of version 1.
        stats: what was read, `tokens_read` among it.
        digest_chain, digest_pending: see `TokenDigest`.
        turns: messages of a chat that were replied to.
        adapter: that gave the model its memory: a file, `default` for the one that comes with this package, or nothing.
    """

    model: str
    fingerprint: str
    settings: dict[str, Any]
    dtype: str
    stats: ReadStats
    digest_chain: str
    digest_pending: list[int]
    turns: int
    adapter: str

    @property
    def digest(self) -> TokenDigest:
        return TokenDigest(self.digest_chain, tuple(self.digest_pending))

    def at(self, snapshot: Snapshot) -> "SnapshotHeader":
        """That of another snapshot of the same session."""
        pending = list(snapshot.digest.pending)
        return replace(
            self,
            stats=snapshot.stats,
            digest_chain=snapshot.digest.chain,
            digest_pending=pending,
            turns=snapshot.turns,
        )

    @classmethod
    def from_entries(cls, entries: Any, name: str) -> "SnapshotHeader":
        """From JSON of outside. Raises `SnapshotError` where an entry is missing, strange, or makes no sense."""
        try:
            header = cls(**entries | {"stats": ReadStats(**entries["stats"])})
            _check_types(header)
            _check_types(header.stats)
            tokens = [token for token in header.digest_pending if type(token) is int and 0 <= token < 2**63]
            if tokens != header.digest_pending:
                raise TypeError("digest_pending must be token ids")
            return header
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise SnapshotError(f"{name}: its header is damaged ({str(error)[:200]}); use another copy") from error

    def check_model(self, name: str, found: str) -> None:
        """Raises `SnapshotError` unless the model with the fingerprint `found` made it."""
        if self.fingerprint != found:
            made_with = " with the adapter ".join(filter(None, (self.model, self.adapter)))
            made_with = made_with and f" ({made_with:.200})"
            raise SnapshotError(
                f"{name}: was made with another model{made_with}: fingerprint {self.fingerprint[:12]}, this model "
                f"has {found[:12]}; {_OTHER_MODEL}"
            )


def save_snapshot(path: Path, header: SnapshotHeader, snapshot: Snapshot) -> None:
    """Writes a snapshot; the file appears whole or not at all.

    Raises:
        SnapshotError: the disk is full, or the folder cannot be written.
    """
    window = {
        name: torch.cat([part.tensors[name] for part in snapshot.window], 1) for name in snapshot.window[0].tensors
    }
    tensors = snapshot.committed.tensors | snapshot.latest.tensors | window
    _KIND.write(path, json.dumps(asdict(header)), tensors, version=str(VERSION))


def read_header(path: Path) -> SnapshotHeader:
    """The header alone; allocates nothing else. Raises `SnapshotError` where the file is not a whole snapshot."""
    with _KIND.open(path) as file:
        return _header(file)


def load_snapshot(
    path: Path,
    expected: Sequence[InfiniState],
    vocab_size: int,
    *,
    check: Callable[[SnapshotHeader], None] = lambda header: None,
) -> tuple[SnapshotHeader, Snapshot]:
    """A snapshot, on the CPU.

    Args:
        path: of the file.
        expected: empty states of the model; names, shapes and dtypes are compared with them before anything is read.
        vocab_size: of the model.
        check: called with the header before that, to refuse another model's.

    Raises:
        SnapshotError: a file that is damaged, or does not fit the model.
    """
    with _KIND.open(path) as file:
        header = _header(file)
        check(header)
        migrations = migrations_from(_version(file))
        layout = Layout.of(expected, vocab_size, header.stats.tokens_read)
        wanted: Mapping[str, Tensor] = layout.all
        for migration in reversed(migrations):
            wanted = migration.layout(wanted, expected)
        tensors = file.tensors(wanted, _OTHER_MODEL)
    for migration in migrations:
        tensors = migration.tensors(tensors, expected, header.stats.tokens_read, str(path))
    committed, latest, window = (
        Part({name: tensors[name] for name in part}) for part in (layout.committed, layout.latest, layout.window)
    )
    return header, Snapshot(header.stats, header.digest, header.turns, committed, latest, (window,))


def _version(file: TensorFile) -> int:
    version = file.metadata.get("version", "")
    if version not in map(str, range(1, VERSION + 1)):
        raise SnapshotError(
            f"{file.path}: has version {version!r:.20}, this program reads versions 1 to {VERSION}; update it"
        )
    return int(version)


def _header(file: TensorFile) -> SnapshotHeader:
    version = _version(file)
    try:
        entries = json.loads(file.metadata["header"])
        for migration in migrations_from(version):
            entries = migration.header(entries)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SnapshotError(f"{file.path}: its header is damaged ({str(error)[:200]}); use another copy") from error
    header = SnapshotHeader.from_entries(entries, str(file.path))
    if header.stats.tokens_read == 0:
        raise SnapshotError(f"{file.path}: its header is damaged (nothing was read); use another copy")
    return header


def _check_types(entry: Any) -> None:
    """JSON from outside: each field must be what the dataclass says, and no count negative."""
    for field in fields(entry):
        value, kind = getattr(entry, field.name), get_origin(field.type) or field.type
        fits = isinstance(value, (int, float) if kind is float else kind)  # type: ignore[arg-type]
        fits = fits and not isinstance(value, bool)
        if not fits or (isinstance(value, int | float) and not 0 <= value < 2**63):
            raise TypeError(f"{field.name} is {value!r:.80}")
