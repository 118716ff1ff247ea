"""The `infini` entry of a model's configuration."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from infini_attention.errors import ConfigError
from infini_attention.nn import MemorySettings
from infini_attention.nn.memory import GATE_START_CONVERTED

DEFAULT_SEGMENT_SIZE = 1024


def head_sizes(config: Any) -> tuple[int, int, int]:
    """Query heads, key/value heads and head size of a model, also where its configuration leaves some of them out."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return heads, kv_heads, getattr(config, "head_dim", None) or config.hidden_size // heads


@dataclass(frozen=True)
class InfiniSettings(MemorySettings):
    """Everything that makes a model an Infini model; kept as `config.infini`.

    Attributes:
        segment_size: tokens per segment (C).
        layers: which layers have a memory; None means all. The others attend inside the segment alone, so that the
            bytes of a stream stay bounded.
        overlap: how many tokens of the segment before attention sees too (W), see `infini_attention`.
        rank, gate_start, ...: see `MemorySettings`.
        backend: see `infini_attention`.
    """

    segment_size: int = DEFAULT_SEGMENT_SIZE
    overlap: int = 0
    layers: tuple[int, ...] | None = None
    gate_start: float = GATE_START_CONVERTED
    backend: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.segment_size, bool) or not isinstance(self.segment_size, int) or self.segment_size < 1:
            raise ConfigError(f"segment_size must be an integer of at least 1, in tokens; got {self.segment_size!r}")
        overlap = self.overlap
        if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap <= self.segment_size:
            raise ConfigError(
                f"overlap must be an integer from 0 to the segment size, {self.segment_size}; got {overlap!r}"
            )

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "InfiniSettings":
        """Raises `ConfigError` for names that no setting has."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(entry) - known)
        if unknown:
            raise ConfigError(
                f"config.infini has unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        layers = entry.get("layers")
        return cls(**entry | {"layers": None if layers is None else tuple(sorted(set(layers)))})

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self) | {"layers": None if self.layers is None else list(self.layers)}

    def has_memory(self, layer_idx: int) -> bool:
        """Whether layer `layer_idx` has a memory."""
        return self.rule != "none" and (self.layers is None or layer_idx in self.layers)

    def check_layers(self, num_hidden_layers: int) -> None:
        """Raises `ConfigError` where `layers` names one that the model does not have."""
        wrong = [layer for layer in self.layers or () if not 0 <= layer < num_hidden_layers]
        if wrong:
            raise ConfigError(f"layers must be between 0 and {num_hidden_layers - 1}; got {', '.join(map(str, wrong))}")
