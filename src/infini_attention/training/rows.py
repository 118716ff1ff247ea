"""A batch in parts: rows that go through the model together, and what the loss of their tokens is divided by."""

from typing import NamedTuple

from torch import Tensor

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
        weight: of the tokens beside the answers.
    """

    ids: Tensor
    answers: Tensor
    weight: float


class Counts(NamedTuple):
    """Of a whole batch: tokens of answers, other tokens that have a weight, rows."""

    answers: int
    text: int
    rows: int


def split_rows(ids: Tensor, answers: Tensor, weights: Loss) -> list[Rows]:
    """Parts of as many tokens as suit the device. Rows of text lie apart from others of another weight."""
    rows = max(1, (CPU_TOKENS if ids.device.type == "cpu" else GPU_TOKENS) // ids.shape[1])
    kinds = [Rows(ids, answers, weights.text)]
    if weights.of_filler != weights.text:
        asks = (answers > 0).any(1)
        kinds = [Rows(ids[asks], answers[asks], weights.of_filler), Rows(ids[~asks], answers[~asks], weights.text)]
    return [
        Rows(*part, kind.weight)
        for kind in kinds
        if len(kind.ids)
        for part in zip(kind.ids.split(rows), kind.answers.split(rows), strict=True)
    ]


def count_tokens(parts: list[Rows]) -> Counts:
    """Of all parts of a batch together; at least 1 of each kind, for losses are divided by it."""
    answers = [int((part.answers > 0).sum()) for part in parts]
    weighed = [(part.answers.numel(), count) for part, count in zip(parts, answers, strict=True) if part.weight]
    text = sum(tokens for tokens, _ in weighed) - max(1, sum(count for _, count in weighed))
    return Counts(max(1, sum(answers)), max(1, text), sum(len(part.ids) for part in parts))
