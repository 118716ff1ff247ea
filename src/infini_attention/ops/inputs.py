"""The arguments of one call, checked once and completed with their defaults, as every backend receives them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from infini_attention.errors import ConfigError, ShapeError
from infini_attention.ops.rotary import Rotation
from infini_attention.shapes import (
    Keys,
    Outputs,
    PerKVHead,
    PerQueryHead,
    Queries,
    Rule,
    TokenMask,
    Values,
)
from infini_attention.state import PAPER_RULES, InfiniState


@dataclass(frozen=True)
class Tokens:
    """Everything that belongs to single tokens; the second axis of each tensor is time.

    `q` and `k` go to the attention inside the segment, `q_mem` and `k_mem` to the memory. `valid` is None where every
    token is real.
    """

    q: Queries
    k: Keys
    v: Values
    q_mem: Queries
    k_mem: Keys
    gate: PerQueryHead
    beta: PerKVHead | None
    erase: PerKVHead | None
    log_decay: PerKVHead | None
    valid: TokenMask | None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Tokens":
        """Applies `function` to each tensor that is there, once where two fields hold the same one."""
        done: dict[int, Tensor] = {}
        changed = {}
        for name, tensor in vars(self).items():
            if tensor is not None:
                if id(tensor) not in done:
                    done[id(tensor)] = function(tensor)
                changed[name] = done[id(tensor)]
        return replace(self, **changed)

    def __getitem__(self, span: slice) -> "Tokens":
        return self.map(lambda tensor: tensor[:, span])


@dataclass(frozen=True)
class Inputs:
    """One checked call of `infini_attention`; its axes are those of `shapes`."""

    tokens: Tokens
    state: InfiniState
    rule: Rule
    segment_size: int
    scale: float
    norm_weight: Tensor | None
    rotary: Rotation | None
    sliding_window: int | None  # always below segment and overlap together: a larger one hides nothing
    softcap: float | None
    overlap: int


Result = tuple[Outputs, InfiniState]


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor | None,
    *,
    segment_size: int,
    rule: Rule,
    beta: Tensor | None,
    erase: Tensor | None,
    log_decay: Tensor | None,
    norm_weight: Tensor | None,
    rotary: tuple[Tensor, Tensor] | Rotation | None,
    state: InfiniState | None,
    padding_mask: Tensor | None,
    scale: float | None,
    q_mem: Tensor | None,
    k_mem: Tensor | None,
    sliding_window: int | None,
    softcap: float | None,
    overlap: int,
) -> Inputs:
    """Raises `ShapeError` or `ConfigError` where something does not fit, and names it."""
    if rule not in get_args(Rule):
        raise ConfigError(f"rule must be one of {', '.join(get_args(Rule))}; got {rule!r}")
    if isinstance(segment_size, bool) or not isinstance(segment_size, int) or segment_size < 1:
        raise ConfigError(f"segment_size must be an integer of at least 1, in tokens; got {segment_size!r}")
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap <= segment_size:
        raise ConfigError(f"overlap must be an integer from 0 to the segment size, {segment_size}; got {overlap!r}")
    _check_limits(sliding_window, softcap)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4 or not tensor.is_floating_point():
            raise ShapeError(
                f"{name} must be a floating-point tensor [B, T, heads, size]; got {tensor.dtype} {_shape(tensor)}"
            )
    batch, time, heads, key_dim = q.shape
    kv_heads, value_dim = v.shape[2:]
    _expect("k", k, (batch, time, kv_heads, key_dim), q.dtype)
    _expect("v", v, (batch, time, kv_heads, value_dim), q.dtype)
    if min(batch, heads, kv_heads, key_dim, value_dim) < 1:
        raise ShapeError(f"every axis but time must be at least 1; got q {_shape(q)} and v {_shape(v)}")
    if heads % kv_heads:
        raise ShapeError(f"the query heads must be a multiple of the key/value heads; got {heads} and {kv_heads}")
    if rule == "none":
        gate = q[..., 0]  # not looked at
    elif gate is None:
        raise ConfigError(f"rule {rule!r} needs gate logits, [H] or [B, T, H]; got None")
    elif not gate.is_floating_point() or tuple(gate.shape) not in ((heads,), (batch, time, heads)):
        raise ShapeError(
            f"gate must be floating-point logits {[heads]} or {[batch, time, heads]}; got {gate.dtype} {_shape(gate)}"
        )
    strengths = ("beta", beta), ("erase", erase), ("log_decay", log_decay)
    if rule != "gated_delta":
        for name, extra in (*strengths, ("norm_weight", norm_weight)):
            if extra is not None:
                raise ConfigError(f"{name} belongs to the rule 'gated_delta'; got it with rule {rule!r}: leave it out")
    for name, extra in strengths:
        if extra is not None:
            _expect(name, extra, (batch, time, kv_heads))
    if norm_weight is not None:
        _expect("norm_weight", norm_weight, (value_dim,))
    if q_mem is not None:
        _expect("q_mem", q_mem, q.shape)
    if k_mem is not None:
        _expect("k_mem", k_mem, k.shape)
    if rotary is not None:
        rotary = _checked_rotary(rotary, overlap + segment_size, key_dim)
    if padding_mask is not None:
        _expect("padding_mask", padding_mask, (batch, time), torch.bool)
        if bool(padding_mask.all()):
            padding_mask = None
    if state is None:
        state = InfiniState.zeros(
            batch,
            kv_heads,
            key_dim,
            value_dim,
            segment_size,
            rule=rule,
            overlap=overlap,
            dtype=q.dtype,
            device=q.device,
        )
    else:
        _check_state(state, k, v, segment_size, overlap, rule)
    q_mem, k_mem = q if q_mem is None else q_mem, k if k_mem is None else k_mem
    gate = gate if gate.dim() == 3 else gate.expand(batch, time, heads)
    tokens = Tokens(q, k, v, q_mem, k_mem, gate, beta, erase, log_decay, padding_mask)
    scale = key_dim**-0.5 if scale is None else scale
    window = None if sliding_window is None or sliding_window >= overlap + segment_size else sliding_window
    return Inputs(tokens, state, rule, segment_size, scale, norm_weight, rotary, window, softcap, overlap)


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ShapeError(f"{name} must have the shape {list(shape)}; got {_shape(tensor)}")
    if dtype is not None and tensor.dtype != dtype:
        raise ShapeError(f"{name} must be {dtype}, like its companions; got {tensor.dtype}")


def _check_limits(sliding_window: int | None, softcap: float | None) -> None:
    window = sliding_window
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ConfigError(f"sliding_window must be an integer of at least 1, in tokens, or None; got {window!r}")
    if softcap is not None and not 0 < softcap < float("inf"):
        raise ConfigError(f"softcap must be a finite number above 0, or None; got {softcap!r}")


def _checked_rotary(rotary: tuple[Tensor, Tensor] | Rotation, positions: int, key_dim: int) -> Rotation:
    tables = rotary.tables if isinstance(rotary, Rotation) else rotary
    if len(tables) != 2 or tables[0].shape != tables[1].shape:
        raise ShapeError(f"rotary must be (cos, sin) of one shape; got {[_shape(table) for table in tables]}")
    shape = tables[0].shape
    if len(shape) != 2 or shape[0] != positions or shape[1] > key_dim or shape[1] % 2 or shape[1] == 0:
        raise ShapeError(
            f"rotary cos and sin must be [W + C, R] for the places of overlap and segment, R even and at most the key "
            f"size; got {list(shape)} with W + C = {positions} and key size {key_dim}"
        )
    return rotary if isinstance(rotary, Rotation) else Rotation(*tables)


def _check_state(state: InfiniState, k: Tensor, v: Tensor, segment_size: int, overlap: int, rule: Rule) -> None:
    batch, _, kv_heads, key_dim = k.shape
    value_dim, window, slots = v.shape[3], state.window, (batch, overlap + segment_size, kv_heads)
    wanted = (overlap, k.dtype, (*slots, key_dim), (*slots, value_dim))
    if window is None or (window.overlap, window.keys.dtype, window.keys.shape, window.values.shape) != wanted:
        _expect("state.keys", state.keys, (batch, segment_size, kv_heads, key_dim), k.dtype)
        _expect("state.values", state.values, (batch, segment_size, kv_heads, value_dim), v.dtype)
        _expect("state.overlap_keys", state.overlap_keys, (batch, overlap, kv_heads, key_dim), k.dtype)
        _expect("state.overlap_values", state.overlap_values, (batch, overlap, kv_heads, value_dim), v.dtype)
    shape: tuple[Any, ...] = (0, 0) if rule == "none" else (key_dim, value_dim)
    _expect("state.committed.matrix", state.committed.matrix, (batch, kv_heads, *shape))
    if (state.committed.normalizer is not None) != (rule in PAPER_RULES):
        raise ConfigError(f"the state was not made with rule {rule!r}: go on with the rule that it was made with")
