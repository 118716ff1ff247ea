"""A batch of streams that a model reads: what the evaluation needs of a model, and no more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from infini_attention.evaluation.pieces import CPU_TOKENS, piece_tokens_on
from infini_attention.evaluation.plain import PlainStream, attention_of, piece_tokens_of, trained_length
from infini_attention.models import InfiniCache
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.scoring import logits_of


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


@dataclass(frozen=True)
class Subject:
    """The model under test.

    Attributes:
        open_stream: gives a stream that has read nothing, for a batch of any size.
        segment_size: in tokens; None where there are no segments: attention sees everything, or there is none.
        overlap: tokens of the segment before that attention sees too.
        about: what each record says about the model, its fingerprint at least.
        piece_tokens: to read at a time, over all rows of a batch.
    """

    open_stream: Callable[[], Stream]
    segment_size: int | None
    about: dict[str, Any]
    overlap: int = 0
    piece_tokens: int = CPU_TOKENS

    @property
    def unit(self) -> int:
        """Tokens that pieces are multiples of: those of a segment, or 1 where there are no segments."""
        return self.segment_size or 1


def subject_of(model: PreTrainedModel) -> Subject:
    """An Infini model as a subject, or any other causal model with the cache that it returns.

    Raises:
        ModelError: one that cannot go on from its cache.
    """
    about: dict[str, Any] = {"fingerprint": fingerprint(model)}
    piece_tokens = piece_tokens_on(model.device)
    if not is_infini_model(model):
        own_piece = piece_tokens_of(model)
        about |= {"attention": attention_of(model), "rule": None, "segment_size": None}
        about |= {"trained_length": trained_length(model)}
        return Subject(lambda: PlainStream(model, piece_tokens=own_piece), None, about, piece_tokens=piece_tokens)
    settings = model.config.infini_settings
    about |= {"attention": "infini", "rule": settings.rule, "segment_size": settings.segment_size}
    length = getattr(model.config, "trained_length", None)  # of training's longest samples, where anyone noted it
    about |= {"overlap": settings.overlap, "trained_length": length if isinstance(length, int) else None}
    return Subject(lambda: ModelStream(model), settings.segment_size, about, settings.overlap, piece_tokens)


def is_infini_model(model: PreTrainedModel) -> bool:
    """Whether it has a memory, rather than full attention."""
    return hasattr(model.config, "infini")
