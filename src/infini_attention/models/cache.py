"""The Transformers cache that carries the state of every layer: the same number of bytes however much was read."""

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from infini_attention.errors import CacheError
from infini_attention.state import InfiniState


class InfiniLayer(CacheLayerMixin):
    """One layer's state. States are values: a copy of the layer is a fork, and costs nothing until it is written."""

    is_compileable = False  # True would make generate() build masks of the whole length and compile
    is_croppable = False
    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.state: InfiniState | None = None
        self.columns = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the first forward pass makes the state."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        raise CacheError(
            "InfiniCache cannot hold the keys and values of an ordinary attention layer: pass it to an Infini model, "
            "or use DynamicCache with this one"
        )

    def get_seq_length(self) -> int:
        """Columns read so far, padding included: what generate() slices its inputs by."""
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.state, self.columns = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.state is not None:
            self.state = self.state.select_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self.state = self.state.repeat_rows(repeats)

    def crop(self, max_length: int) -> NoReturn:
        raise CacheError("what was compressed cannot be cropped: keep a fork() from before, and go on from that")

    def offload(self) -> NoReturn:
        raise CacheError("InfiniCache is not offloaded: its size does not grow")


class InfiniCache(Cache):
    """A stream's state in all layers of a model, as `past_key_values`.

    Args:
        num_hidden_layers: layers of the model.
    """

    layers: list[InfiniLayer]  # type: ignore[assignment]

    def __init__(self, num_hidden_layers: int) -> None:
        super().__init__(layers=[InfiniLayer() for _ in range(num_hidden_layers)])

    @classmethod
    def from_states(cls, states: Sequence[InfiniState], columns: int) -> "InfiniCache":
        """A cache that goes on from `states`, one per layer, after `columns` tokens."""
        cache = cls(len(states))
        for layer, state in zip(cache.layers, states, strict=True):
            layer.state, layer.columns = state, columns
        return cache

    @property
    def states(self) -> tuple[InfiniState | None, ...]:
        """One per layer; None before the first token."""
        return tuple(layer.state for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(state.nbytes for state in self.states if state is not None)

    @property
    def tokens_seen(self) -> Tensor | None:
        """`[B]` int64: real tokens of each row; None before the first."""
        state = self.layers[0].state
        return None if state is None else state.tokens_seen

    def fork(self) -> "InfiniCache":
        """A second stream that goes on from here; both share the bytes that neither has written since."""
        return self._map(lambda state: state)

    def detach(self) -> "InfiniCache":
        """The same values without their history: the border of truncated back-propagation through time."""
        return self._map(InfiniState.detach)

    def forget(self) -> "InfiniCache":
        """The same stream with every memory emptied: the memory-off control. What attention sees stays."""
        return self._map(InfiniState.forget)

    def for_prompts(self, prompts: int, copies: int) -> "InfiniCache":
        """What generate() goes on from: each of `prompts` rows `copies` times, for beams or several sequences.

        Raises:
            CacheError: the cache has read another number of rows.
        """
        rows = prompts if self.tokens_seen is None else len(self.tokens_seen)
        if rows != prompts:
            raise CacheError(
                f"the cache has read {rows} rows, the prompts are {prompts}: give it the rows that it has read. (Beam "
                "search returns the cache of all its beams, which have read other tokens than the sequences that it "
                "returns: go on from a fork() of the cache from before it)"
            )
        if copies == 1:
            return self
        cache = self.fork()
        cache.batch_repeat_interleave(copies)
        return cache

    def _map(self, function: Any) -> "InfiniCache":
        cache = InfiniCache(len(self.layers))
        for new, old in zip(cache.layers, self.layers, strict=True):
            new.state = None if old.state is None else function(old.state)
            new.columns = old.columns
        return cache

    def crop(self, max_length: int) -> NoReturn:
        self.layers[0].crop(max_length)

    def activate_past_recording(self) -> NoReturn:
        raise CacheError("assisted decoding and prompt lookup have to take tokens back, which a memory cannot do")


def as_infini_cache(cache: object, num_hidden_layers: int) -> InfiniCache:
    """`cache` itself, checked. Raises `CacheError` for any other kind."""
    if not isinstance(cache, InfiniCache):
        raise CacheError(
            f"an Infini model needs an InfiniCache as past_key_values, or None; got {type(cache).__name__}, which "
            "keeps every key and value and cannot carry the memory"
        )
    if len(cache.layers) != num_hidden_layers:
        raise CacheError(f"the cache has {len(cache.layers)} layers, the model {num_hidden_layers}")
    return cache
