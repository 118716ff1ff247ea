"""The operation: Infini-attention over any piece of a stream."""

from torch import Tensor

from infini_attention.ops.backends import load_backend
from infini_attention.ops.inputs import Result, check_inputs
from infini_attention.ops.precision import full_precision
from infini_attention.ops.rotary import Rotation
from infini_attention.shapes import Rule
from infini_attention.state import InfiniState


def infini_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor | None,
    *,
    segment_size: int,
    rule: Rule = "gated_delta",
    beta: Tensor | None = None,
    erase: Tensor | None = None,
    log_decay: Tensor | None = None,
    norm_weight: Tensor | None = None,
    rotary: tuple[Tensor, Tensor] | Rotation | None = None,
    state: InfiniState | None = None,
    padding_mask: Tensor | None = None,
    scale: float | None = None,
    q_mem: Tensor | None = None,
    k_mem: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    overlap: int = 0,
    backend: str = "auto",
) -> Result:
    """Attends exactly inside the current segment and reads everything before it from the memory.

    Feeding a text in any split, one token at a time included, gives the same outputs and the same final state as
    feeding it whole. Implements Munkhdalai, Faruqui and Gopal 2024 (arXiv 2404.07143), equations 7 to 10, and the gated
    delta rule of docs/equations.md. Autocast has no say in here: the memory is float32 at least, and attention is
    computed in the dtype of q, k and v.

    Args:
        q: `[B, T, H, K]` queries, without position embedding. T is any length, not only multiples of the segment.
        k: `[B, T, G, K]` keys, without position embedding; query head h belongs to key/value head h // (H / G).
        v: `[B, T, G, V]` values.
        gate: `[H]` or `[B, T, H]` logits; sigmoid(gate) weighs the memory. May be None for the rule "none".
        segment_size: tokens per segment (C).
        rule: how the memory is written: "linear" (eq. 8), "delta" (eq. 9), "gated_delta", or "none": no memory at all,
            attention inside the segment alone (the window-only control).
        beta: `[B, T, G]` in (0, 1), how strongly each token is written (gated_delta; None means 1).
        erase: `[B, T, G]` in (0, 2), how much of what its key held each token takes away first (gated_delta; None means
            beta: what is written takes the place of as much as it is).
        log_decay: `[B, T, G]`, at most 0, the logarithm of how much of the memory each token keeps (None means 0).
        norm_weight: `[V]`, the weight of the RMSNorm on what gated_delta reads (None means 1).
        rotary: (cos, sin), each `[W + C, R]` for the positions -W..C-1, R <= K; rotate-half convention. Positions
            restart in each segment (those of the overlap, W, are negative), and the memory sees none. A `Rotation` of
            them, made once, spares each call some work.
        state: what the previous call returned; None starts a stream.
        padding_mask: `[B, T]` bool, True for real tokens. A padded token is neither written nor read, its output is 0,
            and each row's segments start at its first real token.
        scale: of the scores inside the segment; None means K ** -0.5.
        q_mem: like q: the memory's own queries, where they differ.
        k_mem: like k: the memory's own keys, where they differ.
        sliding_window: how many tokens of its segment a query sees, itself included; None means all before it. The
            memory is not concerned: what has left the window can be read from it once the segment has ended.
        softcap: of the scores inside the segment, which become softcap * tanh(scores / softcap); None means no bound.
        overlap: how many tokens of the segment before attention sees too (W), at most all: the first tokens of a
            segment then know what stands right before them. The memory is not concerned. 0 is the paper's.
        backend: "auto", "torch" (vectorised) or "reference" (the equations in order, for checking).

    Returns:
        The outputs `[B, T, H, V]` in the dtype of q, and the state to pass to the next call.

    Raises:
        ShapeError: tensors that do not fit together.
        ConfigError: an unknown rule, a segment size or window below 1, a softcap that is not above 0, an
            overlap longer than a segment, or arguments that the rule does not have.
        BackendError: a backend that is unknown or cannot run these inputs.
    """
    inputs = check_inputs(
        q,
        k,
        v,
        gate,
        segment_size=segment_size,
        rule=rule,
        beta=beta,
        erase=erase,
        log_decay=log_decay,
        norm_weight=norm_weight,
        rotary=rotary,
        state=state,
        padding_mask=padding_mask,
        scale=scale,
        q_mem=q_mem,
        k_mem=k_mem,
        sliding_window=sliding_window,
        softcap=softcap,
        overlap=overlap,
    )
    with full_precision(q.device):
        return load_backend(backend, inputs)(inputs)
