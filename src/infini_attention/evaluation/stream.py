"""A batch of streams that a model reads: what the evaluation needs of a model, and no more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from infini_attention.models import InfiniCache
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.scoring import logits_of


class Stream(Protocol):
    """Rows that are read in step."""

    def read(self, token_ids: Tensor) -> Tensor:
        """Reads `[B, T]` more tokens; the logits `[B, vocabulary]` of the token after the last one."""
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
        base: torch.nn.Module = self.model.base_model
        output = base(input_ids=token_ids.to(self.model.device), past_key_values=self.cache, use_cache=True)
        return logits_of(self.model, output.last_hidden_state[:, -1]).cpu()

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
        segment_size: in tokens.
        about: what each record says about the model, its fingerprint at least.
    """

    open_stream: Callable[[], Stream]
    segment_size: int
    about: dict[str, Any]


def subject_of(model: PreTrainedModel) -> Subject:
    """An Infini model as a subject."""
    settings = model.config.infini_settings
    about = {"fingerprint": fingerprint(model), "rule": settings.rule, "segment_size": settings.segment_size}
    return Subject(lambda: ModelStream(model), settings.segment_size, about)
