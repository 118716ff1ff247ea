"""The shapes that are measured."""

from collections.abc import Iterable
from dataclasses import dataclass

from infini_attention.errors import ConfigError


@dataclass(frozen=True)
class Sizes:
    """Of a Llama with random weights, and of its twin's memory.

    Attributes:
        width, layers, intermediate, vocabulary: of the model; small vocabularies leave the layers' cost to be seen.
        heads, kv_heads, head_dim: H, G, and the size of q, k and v.
        segment: tokens per segment (C).
        rank, decay: see `convert`; None is its default for the rule.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    segment: int
    vocabulary: int = 256
    rank: int | None = 0
    decay: bool = True


SHAPES = {
    # The paper's width, layers and heads; its feed-forward has 4096 columns and two matrices, ours has three.
    "1024x12": Sizes(1024, 12, 8, 8, 128, 2816, 512),
    "builtin": Sizes(128, 3, 4, 4, 32, 336, 64, decay=False),
    # Those that infini-transformer-pytorch is measured at: its feed-forward is 8/3 of the width.
    "256x4-c128": Sizes(256, 4, 4, 4, 64, 682, 128),
    "256x4-c512": Sizes(256, 4, 4, 4, 64, 682, 512),
    "512x6-c128": Sizes(512, 6, 8, 8, 64, 1365, 128),
    "512x6-c512": Sizes(512, 6, 8, 8, 64, 1365, 512),
    # A converted model, with its vocabulary.
    "smollm2-135m": Sizes(576, 30, 9, 3, 64, 1536, 1024, vocabulary=49152, rank=None),
}


def named_shapes(names: Iterable[str]) -> dict[str, Sizes]:
    """Those of these names. Raises `ConfigError` for a name that none has."""
    names = list(names)
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        raise ConfigError(f"there is no shape {unknown[0]!r}; there are {', '.join(SHAPES)}")
    return {name: SHAPES[name] for name in names}
