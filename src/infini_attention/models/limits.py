"""What cannot be converted, or not at this segment size, and why."""

from collections.abc import Iterator
from typing import Any

from infini_attention.errors import ConfigError, ModelError
from infini_attention.models.families import Family

KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}


def check_family(config: Any) -> None:
    """Raises `ModelError` where a model of a known family attends in a way that has no twin."""
    others = sorted(set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYER_TYPES)
    if others:
        raise ModelError(
            f"layers must attend fully or in a sliding window; got layer_types with {', '.join(others)}, which have no "
            "twin: convert another model"
        )
    if getattr(config, "use_bidirectional_attention", False) or getattr(config, "is_causal", True) is False:
        raise ModelError("expected a model that reads in order; got one that looks ahead too: convert another one")
    if getattr(config, "add_cross_attention", False):
        raise ModelError("expected a decoder alone; got one with cross-attention: set add_cross_attention to false")


def check_segment(family: Family, config: Any, segment_size: int, overlap: int) -> None:
    """Raises `ConfigError` where a segment and its overlap are longer than what the model's positions are made for."""
    if overlap and family.learned_positions:
        raise ConfigError(
            f"overlap must be 0: the tokens of a {family.model_type} model know their places in their own segment, not "
            f"in the next one; got {overlap}"
        )
    for limit, reason in position_limits(family, config):
        if segment_size + overlap > limit:
            beside = f" beside an overlap of {overlap}" if overlap else ""
            raise ConfigError(f"segment_size must be at most {limit - overlap}{beside}, {reason}; got {segment_size}")


def position_limits(family: Family, config: Any) -> Iterator[tuple[int, str]]:
    """Up to how many tokens the positions of a model stay what they are, and why.

    Models with longrope and dynamic rotations turn by other frequencies once a text is longer than a limit. A segment
    has one set of frequencies, so it must not be longer, or the twin would not equal its base.
    """
    if family.learned_positions:
        yield config.max_position_embeddings, f"the positions that this {family.model_type} model has learned"
    rope = getattr(config, "rope_parameters", None) or {}
    for entry in [rope] if "rope_type" in rope else [part for part in rope.values() if isinstance(part, dict)]:
        kind, limit = entry.get("rope_type"), config.max_position_embeddings
        if kind == "longrope":
            limit = entry.get("original_max_position_embeddings") or limit
        if kind in ("longrope", "dynamic"):
            yield limit, f"beyond which the frequencies of this model's {kind} rotation change"
