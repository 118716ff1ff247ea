"""What a session's memory holds, as an answer: the names are those of `infini inspect`, which says more about them."""

from typing import Literal

from pydantic import Field

from infini_attention.server.wire import Answer

PerHead = list[float | None]


class Complexity(Answer):
    state_bytes: int
    at_tokens: list[int] = Field(description="The first and the last place where they were measured.")
    constant: bool | None = Field(description="Whether they are the same there; null for a single place.")


class Length(Answer):
    tokens_seen: int
    verified: int | None = Field(description="The longest distance over which a planted key was recalled.")


class Compression(Answer):
    with_window: float = Field(description="Bytes of a full KV cache by those of the whole state.")
    without_window: float = Field(description="The same for the tokens that are in the memory alone.")


class Throughput(Answer):
    tokens_per_second: float | None
    slope: float | None = Field(description="By how much of their mean the rates change over what was read.")
    slope_se: float | None


class Quality(Answer):
    recall: float | None = Field(description="Share of the questions about a planted key that were answered.")
    recall_memory_off: float | None = Field(description="The same with the memory emptied before the question.")
    asked: int
    memory_share: float | None = Field(description="Of the energy of the attention's output.")


class Place(Answer):
    """What is read back of what was written so many segments ago, as a cosine."""

    segments: float
    cosine: float | None
    control: float | None = Field(description="With the values of other probes: what chance would give.")
    probes: int


class SixMetrics(Answer):
    memory_complexity: Complexity
    sequence_length: Length
    compression: Compression
    throughput: Throughput
    attention_quality: Quality
    memory_update_efficiency: list[Place]


class LayerFigures(Answer):
    """Of a layer that has a memory: a number per head. What only reading shows is null without a probe."""

    layer: int
    effective_rank: PerHead = Field(description="Directions that are in use, per key/value head.")
    utilisation: PerHead = Field(description="The same as a share of the directions that there are.")
    norm: PerHead
    gate: PerHead | None = Field(description="Weight of the memory, per query head.")
    memory_share: PerHead | None = Field(description="Of the output's energy, per query head.")
    write_strength: PerHead | None
    written: PerHead | None = Field(description="Share of the tokens that are written at all.")
    decay: PerHead | None = Field(description="Share of the memory that is lost per token.")


class MemoryInfo(Answer):
    id: str
    object: Literal["session.memory"] = "session.memory"
    rule: str
    segment_size: int
    probe_tokens: int = Field(description="That a fork has read for these figures; 0 without a probe.")
    state_bytes: int
    full_kv_bytes: int = Field(description="What full attention would keep for the same tokens.")
    full_kv_bytes_per_token: int
    metrics: SixMetrics
    layers: list[LayerFigures]
