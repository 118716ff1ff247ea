"""What a model writes: one way for all tasks in which it does."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from infini_attention.data.recall import RecallSample
from infini_attention.evaluation.stream import Stream, read_span


def read_prompts(
    stream: Stream, samples: Sequence[RecallSample], *, start: int, memory: bool, piece_size: int
) -> tuple[Tensor, int]:
    """Reads prompts that end with a question at the same place: the logits behind it, and the bytes of a row's state.

    Args:
        stream: one that has read the first `start` tokens of the samples.
        samples: with one question each, at the end.
        memory: False empties the memory right before the question.
        piece_size: tokens per row that are read at a time; changes no result.
    """
    ids = torch.stack([sample.token_ids for sample in samples])
    question, end = samples[0].questions[0]
    read_span(stream, ids, start, question, piece_size)
    if not memory:
        stream.forget()
    logits = stream.read(ids[:, question:end])
    return logits, stream.nbytes // len(samples)


def write(
    stream: Stream,
    logits: Tensor,
    count: int,
    *,
    ends: Collection[int | None] = (),
    enough: Callable[[int, list[int]], bool] = lambda row, written: False,
) -> list[list[int]]:
    """Lets each row write on, greedily and from its own words.

    Args:
        stream: it reads what is written, but for the last token.
        logits: `[B, vocabulary]`, of the first token to write.
        count: at most so many tokens per row.
        ends: tokens that end a row and are no part of it.
        enough: asked after each token of a row; true ends it, which saves time.

    Returns:
        The tokens of each row.
    """
    written: list[list[int]] = [[] for _ in logits]
    going = set(range(len(written)))
    for place in range(count):
        tokens = logits.argmax(-1)
        for row, token in enumerate(tokens.tolist()):
            if row not in going:
                continue
            if token not in ends:
                written[row].append(token)
            if token in ends or enough(row, written[row]):
                going.discard(row)
        if not going or place + 1 == count:
            break
        logits = stream.read(tokens[:, None])
    return written
