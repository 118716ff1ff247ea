"""The shapes that are measured."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from infini_attention.errors import ConfigError


@dataclass(frozen=True)
class Sizes:
    """Of a Llama with random weights, and of its twin's memory.

    Attributes:
        width, layers, intermediate, vocabulary: of the model; small vocabularies leave the layers' cost to be seen.
        heads, kv_heads, head_dim: H, G, and the size of q, k and v.
        segment: tokens per segment (C).
        tied: whether embedding and head are one matrix.
        memory: settings of `convert`.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    segment: int
    vocabulary: int = 256
    tied: bool = False
    memory: dict[str, Any] = field(default_factory=lambda: {"rank": 0})

    @property
    def overlap(self) -> int:
        """Tokens of the segment before that attention sees too."""
        return int(self.memory.get("overlap", 0))


_BUILTIN = {"rank": 0, "decay": False, "beta_floor": 0.05, "overlap": 16, "layers": [1, 2, 3]}
SHAPES = {
    # The paper's width, layers and heads; its feed-forward has 4096 columns and two matrices, ours has three.
    "1024x12": Sizes(1024, 12, 8, 8, 128, 2816, 512),
    # Without its biases, which a model with a sliding window does not have.
    "builtin": Sizes(128, 4, 4, 2, 64, 320, 128, 2048, tied=True, memory=_BUILTIN),
    # Those that infini-transformer-pytorch is measured at: its feed-forward is 8/3 of the width.
    "256x4-c128": Sizes(256, 4, 4, 4, 64, 682, 128),
    "256x4-c512": Sizes(256, 4, 4, 4, 64, 682, 512),
    "512x6-c128": Sizes(512, 6, 8, 8, 64, 1365, 128),
    "512x6-c512": Sizes(512, 6, 8, 8, 64, 1365, 512),
    # A converted model, with its vocabulary.
    "smollm2-135m": Sizes(576, 30, 9, 3, 64, 1536, 1024, 49152, tied=True, memory={}),
}


def named_shapes(names: Iterable[str]) -> dict[str, Sizes]:
    """Those of these names. Raises `ConfigError` for a name that none has."""
    names = list(names)
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        raise ConfigError(f"there is no shape {unknown[0]!r}; there are {', '.join(SHAPES)}")
    return {name: SHAPES[name] for name in names}
