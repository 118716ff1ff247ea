"""A batch of streams that a model reads: what the evaluation needs of a model, and no more."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from infini_attention.errors import ConfigError, ModelError
from infini_attention.models import InfiniCache
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.scoring import logits_of

FULL_PIECE_TOKENS = 512  # full attention reads at a time: each of them has a mask over all that came before


class Stream(Protocol):
    """Rows that are read in step."""

    def read(self, token_ids: Tensor) -> Tensor:
        """Reads `[B, T]` more tokens; the logits `[B, vocabulary]` of the token after the last one."""
        ...

    def logits(self, token_ids: Tensor) -> Tensor:
        """Reads `[B, T]` more tokens; the logits `[B, T, vocabulary]` (float32) of the token after each of them."""
        ...

    def fork(self) -> Self:
        """A second stream that goes on from here."""
        ...

    def forget(self) -> None:
        """Empties the memory; the unfinished segment stays."""
        ...

    @property
    def nbytes(self) -> int:
        """Of the state of all rows."""
        ...


def read_span(stream: Stream, token_ids: Tensor, start: int, stop: int, piece_size: int) -> None:
    """Reads the columns from `start` to `stop` of `[B, T]` in pieces that end at multiples of `piece_size`."""
    while start < stop:
        end = min(stop, (start // piece_size + 1) * piece_size)
        stream.read(token_ids[:, start:end])
        start = end


class ModelStream:
    """A `Stream` of an Infini model."""

    def __init__(self, model: PreTrainedModel, cache: InfiniCache | None = None) -> None:
        self.model = model
        self.cache = InfiniCache(model.config.num_hidden_layers) if cache is None else cache

    @torch.inference_mode()
    def read(self, token_ids: Tensor) -> Tensor:
        return logits_of(self.model, self._hidden(token_ids)[:, -1]).cpu()

    @torch.inference_mode()
    def logits(self, token_ids: Tensor) -> Tensor:
        return logits_of(self.model, self._hidden(token_ids)).cpu()

    def _hidden(self, token_ids: Tensor) -> Tensor:
        base: torch.nn.Module = self.model.base_model
        output = base(input_ids=token_ids.to(self.model.device), past_key_values=self.cache, use_cache=True)
        return output.last_hidden_state

    def fork(self) -> "ModelStream":
        return ModelStream(self.model, self.cache.fork())

    @torch.inference_mode()
    def forget(self) -> None:
        self.cache = self.cache.forget()

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes


class FullAttentionStream:
    """A `Stream` of a plain causal model, whose state is its key-value cache and grows with every token."""

    def __init__(self, model: PreTrainedModel, cache: DynamicCache | None = None) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config) if cache is None else cache
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}

    def read(self, token_ids: Tensor) -> Tensor:
        for piece in token_ids.split(FULL_PIECE_TOKENS, dim=1):
            logits = self.logits(piece, **self._options)
        return logits[:, -1].cpu()

    @torch.inference_mode()
    def logits(self, token_ids: Tensor, **options: Any) -> Tensor:
        """Reads `[B, T]` more tokens; the logits `[B, T, vocabulary]` (float32) of the token after each of them.

        Raises:
            ModelError: the model has no positions left.
        """
        ids = token_ids.to(self.model.device)
        try:
            return self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, **options).logits.float()
        except IndexError as error:  # learned positions, of which there is a table
            raise ModelError(
                f"the model cannot read {self.cache.get_seq_length() + ids.shape[1]} tokens; its positions end at "
                f"{trained_length(self.model)}: ask for shorter texts"
            ) from error

    def fork(self) -> "FullAttentionStream":
        # Keys and values grow by concatenation, so that both may hold the same tensors; other layers write in place.
        shared = (DynamicLayer, DynamicSlidingWindowLayer)
        layers = self.cache.layers
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) if type(layer) in shared else copy.deepcopy(layer) for layer in layers]
        return FullAttentionStream(self.model, cache)

    def forget(self) -> None:
        """Raises `ConfigError`: there is no memory, and without its cache the model would have read nothing."""
        raise ConfigError("a model with full attention has no memory to switch off; evaluate it with the memory on")

    @property
    def nbytes(self) -> int:
        parts = (part for layer in self.cache.layers for part in vars(layer).values())
        return sum(part.nbytes for part in parts if isinstance(part, Tensor))


@dataclass(frozen=True)
class Subject:
    """The model under test.

    Attributes:
        open_stream: gives a stream that has read nothing, for a batch of any size.
        segment_size: in tokens; None where attention sees everything.
        overlap: tokens of the segment before that attention sees too.
        about: what each record says about the model, its fingerprint at least.
    """

    open_stream: Callable[[], Stream]
    segment_size: int | None
    about: dict[str, Any]
    overlap: int = 0

    @property
    def unit(self) -> int:
        """Tokens that pieces are multiples of: those of a segment, or 1 where there are no segments."""
        return self.segment_size or 1


def subject_of(model: PreTrainedModel) -> Subject:
    """An Infini model as a subject, or any other causal model with its full key-value cache."""
    about: dict[str, Any] = {"fingerprint": fingerprint(model)}
    if not is_infini_model(model):
        about |= {"attention": "full", "rule": None, "segment_size": None, "trained_length": trained_length(model)}
        return Subject(lambda: FullAttentionStream(model), None, about)
    settings = model.config.infini_settings
    about |= {"attention": "infini", "rule": settings.rule, "segment_size": settings.segment_size}
    about["overlap"] = settings.overlap
    return Subject(lambda: ModelStream(model), settings.segment_size, about, settings.overlap)


def is_infini_model(model: PreTrainedModel) -> bool:
    """Whether it has a memory, rather than full attention."""
    return hasattr(model.config, "infini")


def trained_length(model: PreTrainedModel) -> int | None:
    """Tokens of the longest text that a plain model was made for; None where its configuration does not say so."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
