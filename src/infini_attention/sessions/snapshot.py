"""A place in a stream as a small value that never changes: what a rewind goes back to, and what a file or store keeps.

Of the unfinished segment only the slots in use are kept. Snapshots of one stream and of its forks share what they have
in common: the memory that all tokens of a segment read, and the keys and values of the tokens that both have seen.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from safetensors.torch import save
from torch import Tensor

from infini_attention.sessions.digest import TokenDigest
from infini_attention.sessions.stats import ReadStats
from infini_attention.state import InfiniState, Memory

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Tensors of all layers by name, which several snapshots may hold together. They are never written to."""

    tensors: Tensors

    @cached_property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def identity(self) -> tuple[str, int]:
        """SHA-256 of `encoded()`, and its bytes."""
        content = self.encoded()
        return hashlib.sha256(content).hexdigest(), len(content)

    def encoded(self) -> bytes:
        """As a safetensors file: the same bytes for the same numbers, in any process."""
        return save(self.tensors)

    def to(self, device: torch.device | str) -> "Part":
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return self if all(moved[name] is tensor for name, tensor in self.tensors.items()) else Part(moved)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A session's state after `tokens` tokens.

    Attributes:
        stats, digest, turns: as in `Position`.
        committed: the memory as it stood at the start of the unfinished segment, and what that segment overlaps with:
            the same for all of the segment.
        latest: what the unfinished segment has written to the memory, if it has begun, and `logits [V]` (float32) of
            the next token.
        window: keys and values of the unfinished segment in pieces `[1, n, G, D]`, whose n add up to the slots in use.
    """

    stats: ReadStats
    digest: TokenDigest
    turns: int
    committed: Part
    latest: Part
    window: tuple[Part, ...]

    @property
    def tokens(self) -> int:
        return self.stats.tokens_read

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.committed, self.latest, *self.window)

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers; of several snapshots, `unique_bytes` counts what they share once."""
        return unique_bytes([self])

    @property
    def logits(self) -> Tensor | None:
        """`[V]`; None before the first token."""
        return self.latest.tensors.get("logits")

    @classmethod
    def start(cls) -> "Snapshot":
        """Of a stream that has read nothing."""
        return cls(ReadStats(), TokenDigest(), 0, Part({}), Part({}), ())

    @classmethod
    def take(
        cls,
        states: Sequence[InfiniState],
        stats: ReadStats,
        digest: TokenDigest,
        turns: int,
        logits: Tensor,
        base: "Snapshot | None" = None,
    ) -> "Snapshot":
        """Of a stream of one row.

        Args:
            states: one per layer, after `stats.tokens_read` tokens.
            base: an earlier snapshot of the same stream; what has not changed since is shared with it.
        """
        size, tokens = states[0].segment_size, stats.tokens_read
        assert all(int(state.tokens_seen[0]) == tokens for state in states)
        filled, first = tokens % size, 0
        committed: Part | None = None
        window: tuple[Part, ...] = ()
        if base is not None and 0 < base.tokens <= tokens and base.tokens // size == tokens // size:
            committed, window, first = base.committed, base.window, base.tokens % size
        if committed is None:
            committed = Part(_copied(_of_layers(_before_segment(state) for state in states)))
        latest = {"logits": logits}
        if filled:
            latest |= _of_layers(_memory_of(state, "running") for state in states)
        else:
            assert all(_is_at_rest(state) for state in states)
        if first < filled or not window:
            slots = slice(first, filled)
            piece = _of_layers({"keys": s.keys[:, slots], "values": s.values[:, slots]} for s in states)
            window = (*window, Part(_copied(piece)))
        return cls(stats, digest, turns, committed, Part(_copied(latest)), window)

    def states(self, segment_size: int) -> tuple[InfiniState, ...]:
        """The whole states, one per layer, equal to the last bit to those that the snapshot was taken of."""
        layers = sum(name.endswith(".committed.matrix") for name in self.committed.tensors)
        tokens = torch.tensor([self.tokens])
        states = []
        for layer in range(layers):
            committed = _memory(self.committed.tensors, f"layers.{layer}.committed")
            if self.tokens % segment_size:
                running = _memory(self.latest.tensors, f"layers.{layer}.running")
            else:
                running = _at_rest(committed)
            keys, values = (
                _filled_up([part.tensors[f"layers.{layer}.{name}"] for part in self.window], segment_size)
                for name in ("keys", "values")
            )
            overlap_keys, overlap_values = (
                self.committed.tensors.get(f"layers.{layer}.overlap_{name}", own[:, :0])
                for name, own in (("keys", keys), ("values", values))
            )
            states.append(InfiniState(committed, running, keys, values, overlap_keys, overlap_values, tokens))
        return tuple(states)

    def to(self, device: torch.device | str) -> "Snapshot":
        """The same snapshot on `device`; shares nothing with the one it comes from unless that is there already."""
        committed, latest, *window = (part.to(device) for part in self.parts)
        return replace(self, committed=committed, latest=latest, window=tuple(window))


@dataclass(frozen=True)
class Layout:
    """The names, shapes and dtypes of a snapshot's tensors, part by part. The tensors are on `meta`."""

    committed: Tensors
    latest: Tensors
    window: Tensors

    @classmethod
    def of(cls, states: Sequence[InfiniState], vocab_size: int, tokens: int) -> "Layout":
        """Of a snapshot after `tokens` tokens, by a model's empty states."""
        states = [state.to("meta") for state in states]
        filled = tokens % states[0].segment_size
        latest = {"logits": torch.empty(vocab_size, device="meta")}
        if filled:
            latest |= _of_layers(_memory_of(state, "running") for state in states)
        window = _of_layers({"keys": s.keys[:, :filled], "values": s.values[:, :filled]} for s in states)
        return cls(_of_layers(_before_segment(state) for state in states), latest, window)

    @property
    def all(self) -> Tensors:
        return self.committed | self.latest | self.window


def unique_bytes(snapshots: Iterable[Snapshot]) -> int:
    """Bytes of all numbers of some snapshots, each counted once however many of them share it."""
    parts = {id(part): part for snapshot in snapshots for part in snapshot.parts}
    return sum(part.nbytes for part in parts.values())


def _of_layers(named: Iterable[Tensors]) -> Tensors:
    return {f"layers.{layer}.{name}": tensor for layer, own in enumerate(named) for name, tensor in own.items()}


def _memory_of(state: InfiniState, which: str) -> Tensors:
    memory: Memory = getattr(state, which)
    named = {f"{which}.matrix": memory.matrix}
    return named if memory.normalizer is None else named | {f"{which}.normalizer": memory.normalizer}


def _before_segment(state: InfiniState) -> Tensors:
    named = _memory_of(state, "committed")
    return (
        named | {"overlap_keys": state.overlap_keys, "overlap_values": state.overlap_values} if state.overlap else named
    )


def _memory(tensors: Tensors, name: str) -> Memory:
    return Memory(tensors[f"{name}.matrix"], tensors.get(f"{name}.normalizer"))


def _copied(tensors: Tensors) -> Tensors:
    """Without the larger storage that a tensor may be a view of."""
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _at_rest(committed: Memory) -> Memory:
    """The running memory between two segments: the committed one under gated_delta, else what was added: nothing."""
    if committed.normalizer is None:
        return committed
    return Memory(torch.zeros_like(committed.matrix), torch.zeros_like(committed.normalizer))


def _is_at_rest(state: InfiniState) -> bool:
    pairs = zip(state.running.tensors(), _at_rest(state.committed).tensors(), strict=True)
    return all(torch.equal(running, rest) for running, rest in pairs)


def _filled_up(pieces: list[Tensor], size: int) -> Tensor:
    """`[1, C, G, D]`, the slots that are not in use zero."""
    first = pieces[0]
    unused = size - sum(piece.shape[1] for piece in pieces)
    return torch.cat([*pieces, first.new_zeros(1, unused, *first.shape[2:])], 1)
