"""How session files of older versions are read: each migration has a name, and leads to the next version."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infini_attention.errors import SnapshotError
from infini_attention.state import InfiniState

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Migration:
    """From one version to the next.

    Attributes:
        name: what changed.
        header: the entries of the header. Raises `TypeError` or `KeyError` where they make no sense.
        layout: the tensors that the older version holds, on `meta`, from those of the next one and a model's states.
        tensors: those of the next version, from the older ones, the states, the tokens read and the file's name.
    """

    name: str
    header: Callable[[dict[str, Any]], dict[str, Any]]
    layout: Callable[[Tensors, Sequence[InfiniState]], Tensors]
    tensors: Callable[[Tensors, Sequence[InfiniState], int, str], dict[str, Tensor]]


def _header_of_2(entries: dict[str, Any]) -> dict[str, Any]:
    return {"turns": 0, "adapter": ""} | entries | {"dtype": "unknown"}


def _layout_of_1(wanted: Tensors, states: Sequence[InfiniState]) -> Tensors:
    older = dict(wanted)
    for layer, state in enumerate(states):
        older[f"layers.{layer}.keys"] = state.keys.to("meta")
        older[f"layers.{layer}.values"] = state.values.to("meta")
        older[f"layers.{layer}.tokens_seen"] = state.tokens_seen.to("meta")
        for name in ("matrix", "normalizer"):
            if f"layers.{layer}.committed.{name}" in wanted:
                older[f"layers.{layer}.running.{name}"] = wanted[f"layers.{layer}.committed.{name}"]
    return older


def _tensors_of_2(tensors: Tensors, states: Sequence[InfiniState], tokens: int, name: str) -> dict[str, Tensor]:
    newer, used = dict(tensors), tokens % states[0].segment_size
    for layer in range(len(states)):
        if newer.pop(f"layers.{layer}.tokens_seen").tolist() != [tokens]:
            raise SnapshotError(f"{name}: is damaged: its layers have not seen the {tokens} tokens of its header")
        for part in ("keys", "values"):
            newer[f"layers.{layer}.{part}"] = newer[f"layers.{layer}.{part}"][:, :used].clone(
                memory_format=torch.contiguous_format
            )
    return newer


# By the version that they lead away from.
MIGRATIONS = {
    1: Migration("of the unfinished segment, only the slots in use", _header_of_2, _layout_of_1, _tensors_of_2)
}


def migrations_from(version: int) -> list[Migration]:
    """Those that lead from `version` to the newest one, in order."""
    return [MIGRATIONS[older] for older in sorted(MIGRATIONS) if older >= version]
