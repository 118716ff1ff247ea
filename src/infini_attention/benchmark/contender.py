"""What is timed: anything that reads, trains and goes on by a token, in the same three phases."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infini_attention.benchmark.timing import Run

Phase = Literal["prefill", "train", "decode"]
PHASES: tuple[Phase, ...] = ("prefill", "train", "decode")


class Contender(ABC):
    """An implementation, ready to run.

    Attributes:
        parameters: how many numbers it learns.
    """

    parameters: int

    @abstractmethod
    def prefill(self, ids: Tensor) -> Any:
        """Reads `ids [B, T]` from the start of a stream, with the logits of every token; what goes on from there."""

    @abstractmethod
    def decode(self, stream: Any, token: Tensor) -> Any:
        """Reads one more token `[B, 1]` of each row."""

    @abstractmethod
    def train(self, ids: Tensor) -> None:
        """The loss of `ids [B, T]` and its gradients, which are dropped; no optimizer."""


class Module(Contender):
    """A contender that is a model with parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model.eval()
        self.parameters = sum(parameter.numel() for parameter in model.parameters())

    def train(self, ids: Tensor) -> None:
        self.backward(ids)
        self.model.zero_grad(set_to_none=True)

    @abstractmethod
    def backward(self, ids: Tensor) -> None:
        """Leaves the gradients in the model."""


def prepare(contender: Contender, phase: Phase, ids: Tensor, steps: int, stream: Any = None) -> Run:
    """What one round of a phase runs.

    Args:
        contender: who runs.
        phase: what to run.
        ids: `[B, T]`, what is read, and for decode what was read before.
        steps: tokens that a round decodes; the stream goes on from round to round, as it does in use.
        stream: for decode, where to go on from; None reads `ids`.
    """
    if phase == "train":
        return lambda: contender.train(ids)
    if phase == "prefill":
        return torch.no_grad()(lambda: _drop(contender.prefill(ids)))
    with torch.no_grad():
        here = contender.prefill(ids) if stream is None else stream
    tokens = ids[:, -1:]

    @torch.no_grad()
    def run() -> None:
        nonlocal here
        for _ in range(steps):
            here = contender.decode(here, tokens)

    return run


def _drop(_: Any) -> None:
    """A run gives nothing back."""
