"""What the state of a stream holds, layer by layer: what can be said without reading anything."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from infini_attention.errors import ConfigError
from infini_attention.monitor.measures import effective_rank, norm, utilisation
from infini_attention.state import InfiniState

Record = dict[str, Any]

# Of each layer: the first three from its state, the others from what was seen while the model read.
HELD = ("effective_rank", "utilisation", "norm")
SEEN = ("gate", "memory_share", "write_strength", "written", "decay")


def stream_figures(states: Sequence[InfiniState]) -> Record:
    """The figures of a stream of one row.

    Args:
        states: one per layer.

    Returns:
        tokens (seen so far), tokens_in_window (of the unfinished segment), state_bytes, memory_bytes (of these, the
        committed and the running memory), layers: those that have a memory, each with `layer`, `HELD` of the committed
        memory, which is what queries read, a number per key/value head, and `SEEN`, which is None.

    Raises:
        ConfigError: several rows.
    """
    if states[0].batch_size != 1:
        raise ConfigError(f"expected the states of one stream; got {states[0].batch_size} rows: select one of them")
    memories = [
        tensor for state in states for memory in (state.committed, state.running) for tensor in memory.tensors()
    ]
    return {
        "tokens": int(states[0].tokens_seen[0]),
        "tokens_in_window": int(states[0].tokens_in_window[0]),
        "state_bytes": sum(state.nbytes for state in states),
        "memory_bytes": sum(tensor.nbytes for tensor in memories),
        "layers": [_layer(index, state) for index, state in enumerate(states) if state.committed.matrix.numel()],
    }


def _layer(index: int, state: InfiniState) -> Record:
    matrix = state.committed.matrix
    rank = effective_rank(matrix)
    figures = (rank, utilisation(rank, matrix.shape[-2]), norm(matrix))
    held = {name: numbers(figure[0]) for name, figure in zip(HELD, figures, strict=True)}
    return {"layer": index} | held | dict.fromkeys(SEEN)


def numbers(values: Tensor) -> list[float | None]:
    """`[N]` as JSON keeps it: six digits, and None for what is no number."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
