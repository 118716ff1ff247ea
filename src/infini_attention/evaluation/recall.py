"""Puts samples to a model as a stream, and compares its answers token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infini_attention.data.recall import RecallSample
from infini_attention.errors import ConfigError
from infini_attention.evaluation.stream import Stream, read_span


@dataclass(frozen=True)
class Outcome:
    """What came of a batch of samples.

    Attributes:
        hits: `[B, Q]` bool: whether the whole of each answer was right.
        nbytes: of the state of one row.
    """

    hits: Tensor
    nbytes: int


def recall(
    stream: Stream, samples: Sequence[RecallSample], *, start: int = 0, memory: bool = True, piece_size: int
) -> Outcome:
    """Reads the samples up to each answer and lets the model write it, greedily, from its own words.

    After an answer the stream goes on with the right one, so that a mistake spoils no later question.

    Args:
        stream: one that has read the first `start` tokens of the samples.
        samples: equally long, with their questions at the same places.
        memory: False empties the memory right before each question, so that only the unfinished segment is left.
        piece_size: tokens per row that are read at a time; changes no result.
    """
    first = samples[0]
    if any((sample.questions, sample.answers) != (first.questions, first.answers) for sample in samples):
        raise ConfigError("samples of a batch must have their questions at the same places; batch them by `questions`")
    ids = torch.stack([sample.token_ids for sample in samples])
    position, hits = start, []
    for (question, answer), (_, stop) in zip(first.questions, first.answers, strict=True):
        read_span(stream, ids, position, question, piece_size)
        if not memory:
            stream.forget()
        logits = stream.read(ids[:, question:answer])
        hits.append(_answer(stream.fork(), logits, ids[:, answer:stop]))
        position = answer
    return Outcome(torch.stack(hits, 1), stream.nbytes // len(samples))


def _answer(stream: Stream, logits: Tensor, expected: Tensor) -> Tensor:
    """Whether each row writes `expected [B, N]`; stops as soon as no row can any more."""
    hits = torch.ones(len(expected), dtype=torch.bool)
    for place in range(expected.shape[1]):
        written = logits.argmax(-1)
        hits &= written == expected[:, place]
        if not hits.any() or place + 1 == expected.shape[1]:
            break
        logits = stream.read(written[:, None])
    return hits
