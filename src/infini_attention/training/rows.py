"""A batch in parts: rows that go through the model together, and what the loss of their tokens is divided by."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from infini_attention.training.entries import Loss

# Rows that make up so many tokens go through the model together. More of them fall out of a processor's cache; a GPU
# has to be kept busy, and its memory bounds them.
CPU_TOKENS = 2048
GPU_TOKENS = 8192


class Rows(NamedTuple):
    """Some rows of a batch.

    Attributes:
        ids: `[N, T]` int64.
        answers: `[N, T]` int8, see `RecipeBatches`.
        shares: `[N, T]` float32, see `answer_shares`.
        weight: of the tokens beside the answers.
    """

    ids: Tensor
    answers: Tensor
    shares: Tensor
    weight: float


class Counts(NamedTuple):
    """Of a whole batch: answers, other tokens that have a weight, rows."""

    answers: int
    text: int
    rows: int


def split_rows(ids: Tensor, answers: Tensor, weights: Loss) -> list[Rows]:
    """Parts of as many tokens as suit the device. Rows of text lie apart from others of another weight."""
    rows = max(1, (CPU_TOKENS if ids.device.type == "cpu" else GPU_TOKENS) // ids.shape[1])
    shares = answer_shares(answers)
    kinds = [Rows(ids, answers, shares, weights.text)]
    if weights.of_filler != weights.text:
        asks = (answers > 0).any(1)
        kinds = [
            Rows(ids[some], answers[some], shares[some], weight)
            for some, weight in ((asks, weights.of_filler), (~asks, weights.text))
        ]
    return [
        Rows(*part, kind.weight)
        for kind in kinds
        if len(kind.ids)
        for part in zip(kind.ids.split(rows), kind.answers.split(rows), kind.shares.split(rows), strict=True)
    ]


def answer_shares(answers: Tensor) -> Tensor:
    """`[N, T]` float32: the tokens of an answer share a weight of 1, so that long ones count no more than short ones.

    Answers that follow each other at once are one. Everything else has 0.
    """
    asked = answers > 0
    number = (asked & ~F.pad(asked[:, :-1], (1, 0))).cumsum(1) * asked  # of the answer in its row, from 1 on
    lengths = torch.zeros_like(number, dtype=torch.float32).scatter_add_(1, number, asked.float())
    return asked / lengths.gather(1, number).clamp(min=1)


def count_tokens(parts: list[Rows]) -> Counts:
    """Of all parts of a batch together; at least 1 of each kind, for losses are divided by it."""
    answers = round(sum(float(part.shares.sum()) for part in parts))
    weighed = [(part.answers.numel(), int((part.answers > 0).sum())) for part in parts if part.weight]
    text = sum(tokens for tokens, _ in weighed) - max(1, sum(count for _, count in weighed))
    return Counts(max(1, answers), max(1, text), sum(len(part.ids) for part in parts))
