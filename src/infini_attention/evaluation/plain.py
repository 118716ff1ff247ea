"""A causal model as it is, read as a stream: with full attention, with a state of its own, or with both."""

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from infini_attention.errors import ConfigError, ModelError

PIECE_TOKENS = 512  # read at a time: with full attention each of them has a mask over all that came before
CACHES = ("past_key_values", "cache_params", "state")  # what families call it, as an argument and in the output
SHARED = (DynamicLayer, DynamicSlidingWindowLayer)  # keys and values that grow by concatenation
PROBE_TOKENS, PROBE_CUT, MOST_DIFFERENT = 24, 11, 0.05


class PlainStream:
    """A `Stream` of a causal model of any family, whose state is the cache that the model returns.

    Args:
        model: a causal model that is no Infini model.
        cache: to go on from.
        piece_tokens: read at a time; `piece_tokens_of` says how many the model can.

    Raises:
        ModelError: a model without a cache.
    """

    def __init__(self, model: PreTrainedModel, cache: Any = None, *, piece_tokens: int = PIECE_TOKENS) -> None:
        parameters = inspect.signature(model.forward).parameters
        known = [name for name in CACHES if name in parameters]
        if not known:
            raise ModelError(
                f"{type(model).__name__} takes no cache ({', '.join(CACHES)}), so that it cannot go on from what it "
                "has read: name another model"
            )
        self.model, self.name, self.piece_tokens = model, known[0], piece_tokens
        self.cache = DynamicCache(config=model.config) if cache is None and self.name == CACHES[0] else cache
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def read(self, token_ids: Tensor) -> Tensor:
        for piece in token_ids.split(self.piece_tokens, dim=1):
            logits = self._forward(piece, **self._options)
        return logits[:, -1].cpu()

    def logits(self, token_ids: Tensor) -> Tensor:
        """Reads `[B, T]` more tokens; the logits `[B, T, vocabulary]` (float32) of the token after each of them.

        Raises:
            ModelError: the model has no positions left.
        """
        return torch.cat([self._forward(piece) for piece in token_ids.split(self.piece_tokens, dim=1)], 1)

    @torch.inference_mode()
    def _forward(self, token_ids: Tensor, **options: Any) -> Tensor:
        ids = token_ids.to(self.model.device)
        given = {} if self.cache is None else {self.name: self.cache}
        try:
            output = self.model(input_ids=ids, use_cache=True, **given, **options)
        except IndexError as error:  # learned positions, of which there is a table
            seen = self.cache.get_seq_length() if hasattr(self.cache, "get_seq_length") else 0
            raise ModelError(
                f"the model cannot read {seen + ids.shape[1]} tokens; its positions end at "
                f"{trained_length(self.model)}: ask for shorter texts"
            ) from error
        self.cache = output.get(self.name)
        if self.cache is None:
            raise ModelError(f"{type(self.model).__name__} returns no {self.name} to go on from: name another model")
        return output.logits.float()

    def fork(self) -> "PlainStream":
        # Layers that grow may hold the same tensors in both; others write in place.
        layers = getattr(self.cache, "layers", None)
        if layers is None:
            cache = copy.deepcopy(self.cache)
        else:
            cache = copy.copy(self.cache)
            cache.layers = [copy.copy(layer) if type(layer) in SHARED else copy.deepcopy(layer) for layer in layers]
        return PlainStream(self.model, cache, piece_tokens=self.piece_tokens)

    def forget(self) -> None:
        """Raises `ConfigError`: what such a model keeps cannot be taken from it and its window left."""
        raise ConfigError(
            "a model as it is has no memory to switch off beside what it attends to; evaluate it with the memory on"
        )

    @property
    def nbytes(self) -> int:
        layers = getattr(self.cache, "layers", None)
        parts: Iterable[Any] = [self.cache] if layers is None else layers
        return sum(tensor.nbytes for part in parts for tensor in _tensors(part))


def piece_tokens_of(model: PreTrainedModel) -> int:
    """How many tokens the model reads at a time so that a text in pieces is the whole text.

    Some families go on from their cache by single tokens alone, and would silently give other numbers for longer
    pieces: a few tokens are read in both ways, and compared with the whole.

    Raises:
        ModelError: it does not go on from its cache at all.
    """
    stream = PlainStream(model)
    if self_evident(stream):
        return PIECE_TOKENS
    ids = torch.randint(model.config.vocab_size, (1, PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
    whole = stream.logits(ids)[:, PROBE_CUT:]
    for piece_tokens in (PIECE_TOKENS, 1):
        stream = PlainStream(model, piece_tokens=piece_tokens)
        stream.read(ids[:, :PROBE_CUT])
        difference = stream.logits(ids[:, PROBE_CUT:]) - whole
        if difference.square().mean().sqrt() < MOST_DIFFERENT * whole.square().mean().sqrt():
            return piece_tokens
    raise ModelError(
        f"{type(model).__name__} does not go on from the cache that it returns: a text read in pieces gives other "
        "logits than the whole text, so that it cannot be evaluated as a stream"
    )


def self_evident(stream: PlainStream) -> bool:
    """Whether the cache is keys and values alone, which every family goes on from."""
    layers = getattr(stream.cache, "layers", [])
    return bool(layers) and all(type(layer) in SHARED for layer in layers)


def attention_of(model: PreTrainedModel) -> str:
    """`full` for keys and values alone; `recurrent` for a state of constant size; `hybrid` for both."""
    stream, sizes = PlainStream(model), []
    if self_evident(stream):
        return "full"
    for _ in range(2):
        stream.read(torch.zeros(1, 1, dtype=torch.int64))
        sizes.append(stream.nbytes)
    return "recurrent" if sizes[0] == sizes[1] else "hybrid"


def trained_length(model: PreTrainedModel) -> int | None:
    """Tokens of the longest text that a plain model was made for; None where its configuration does not say so."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def _tensors(value: Any) -> Iterable[Tensor]:
    """All tensors in a layer's attributes, in lists and in dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        for each in vars(value).values():
            if isinstance(each, Tensor | dict | list | tuple):
                yield from _tensors(each)
