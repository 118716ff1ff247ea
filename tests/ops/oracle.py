"""The operation once more, in float64 NumPy, one token of one head after another, written from the equations alone.

It shares nothing with the package: no import, no torch, no vectorisation over rows, heads or tokens. Each key/value
head of each row is a stream of its own. Equation numbers are those of arXiv 2404.07143.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EPS = 1e-6


def oracle(
    q: Array,
    k: Array,
    v: Array,
    gate: Array | None,
    *,
    segment_size: int,
    rule: str,
    beta: Array | None = None,
    erase: Array | None = None,
    log_decay: Array | None = None,
    norm_weight: Array | None = None,
    rotary: tuple[Array, Array] | None = None,
    padding_mask: NDArray[np.bool_] | None = None,
    scale: float | None = None,
    q_mem: Array | None = None,
    k_mem: Array | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    overlap: int = 0,
) -> tuple[Array, dict[str, NDArray]]:
    """The outputs and the final state of a stream that is read whole; arguments as in `infini_attention`."""
    (B, T, H, K), (G, V), C, W = q.shape, v.shape[2:], segment_size, overlap
    q_mem, k_mem = q if q_mem is None else q_mem, k if k_mem is None else k_mem
    scale = K**-0.5 if scale is None else scale
    out = np.zeros((B, T, H, V))
    memory_shape = (0, 0) if rule == "none" else (K, V)
    state: dict[str, NDArray] = {
        "committed.matrix": np.zeros((B, G, *memory_shape)),
        "running.matrix": np.zeros((B, G, *memory_shape)),
        "keys": np.zeros((B, C, G, K)),
        "values": np.zeros((B, C, G, V)),
        "overlap_keys": np.zeros((B, W, G, K)),
        "overlap_values": np.zeros((B, W, G, V)),
        "tokens_seen": np.zeros(B, dtype=np.int64),
    }
    if rule in ("linear", "delta"):
        state |= {name: np.zeros((B, G, K)) for name in ("committed.normalizer", "running.normalizer")}

    for b in range(B):
        real = [t for t in range(T) if padding_mask is None or padding_mask[b, t]]
        state["tokens_seen"][b] = len(real)
        for g in range(G):
            M_start, z_start = M, z = np.zeros((K, V)), np.zeros(K)
            for index, t in enumerate(real):
                slot = index % C
                start = index - slot  # of the segment
                # Whom attention sees: the segment so far, the end of the one before, and no more than the window.
                first = max(0, start - W) if sliding_window is None else max(0, start - W, index + 1 - sliding_window)
                seen = real[first : index + 1]
                keys = [_turn(k[b, s, g], W + first - start + n, rotary) for n, s in enumerate(seen)]
                values = [v[b, s, g] for s in seen]
                for h in range(H):
                    if h // (H // G) != g:
                        continue
                    local = _attention(_turn(q[b, t, h], W + slot, rotary), keys, values, scale, softcap)
                    out[b, t, h] = local
                    empty = not (M_start.any() if rule == "gated_delta" else z_start.any())
                    if rule != "none" and not empty:
                        logit = gate[h] if gate.ndim == 1 else gate[b, t, h]
                        share = 1 / (1 + np.exp(-logit))
                        read = _read(rule, q_mem[b, t, h], M_start, z_start, norm_weight)
                        out[b, t, h] = share * read + (1 - share) * local  # eq. 10
                if rule == "gated_delta":
                    strength = 1.0 if beta is None else beta[b, t, g]
                    erased = strength if erase is None else erase[b, t, g]
                    kept = 1.0 if log_decay is None else np.exp(log_decay[b, t, g])
                    key = _unit_silu(k_mem[b, t, g])
                    M = kept * (np.eye(K) - erased * np.outer(key, key)) @ M + strength * np.outer(key, v[b, t, g])
                elif rule != "none":
                    key, value = _sigma(k_mem[b, t, g]), v[b, t, g]
                    if rule == "delta" and z_start.any():
                        value = value - key @ M_start / (key @ z_start)  # eq. 9
                    M, z = M + np.outer(key, value), z + key  # eq. 8
                if slot == C - 1:
                    M_start, z_start = M, z
            if rule in ("linear", "delta"):  # the state keeps apart what the unfinished segment adds
                M, z = M - M_start, z - z_start
            if rule != "none":
                state["committed.matrix"][b, g], state["running.matrix"][b, g] = M_start, M
            if rule in ("linear", "delta"):
                state["committed.normalizer"][b, g], state["running.normalizer"][b, g] = z_start, z
            start = len(real) // C * C
            for slot, t in enumerate(real[start:]):
                state["keys"][b, slot, g], state["values"][b, slot, g] = _turn(k[b, t, g], W + slot, rotary), v[b, t, g]
            for slot, t in enumerate(real[start - W : start] if start else []):
                state["overlap_keys"][b, slot, g] = _turn(k[b, t, g], slot, rotary)
                state["overlap_values"][b, slot, g] = v[b, t, g]
    return out, state


def _sigma(x: Array) -> Array:
    return np.array([number + 1 if number >= 0 else np.exp(number) for number in x])


def _unit_silu(x: Array) -> Array:
    x = x / (1 + np.exp(-x))
    return x / np.sqrt((x * x).sum() + EPS)


def _read(rule: str, q: Array, M: Array, z: Array, norm_weight: Array | None) -> Array:
    if rule == "gated_delta":
        read = _unit_silu(q) @ M
        read = read / np.sqrt((read * read).mean() + EPS)
        return read if norm_weight is None else read * norm_weight
    return _sigma(q) @ M / (_sigma(q) @ z)  # eq. 7


def _attention(q: Array, keys: list[Array], values: list[Array], scale: float, softcap: float | None) -> Array:
    scores = np.array([q @ key * scale for key in keys])
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    weights = np.exp(scores - scores.max())
    return sum(weight * value for weight, value in zip(weights / weights.sum(), values, strict=True))


def _turn(x: Array, slot: int, rotary: tuple[Array, Array] | None) -> Array:
    """Turns channel i with channel i + R/2, both of the first R, by the angle of position `slot`."""
    if rotary is None:
        return x
    cos, sin = rotary[0][slot], rotary[1][slot]
    half, turned = len(cos) // 2, x.copy()
    for i in range(half):
        turned[i] = x[i] * cos[i] - x[i + half] * sin[i]
        turned[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i + half]
    return turned
