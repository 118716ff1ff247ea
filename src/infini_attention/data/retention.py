"""Keys that are written once, at the start of a stream, and asked for again and again while it goes on."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from infini_attention.data.names import TEST_NAMES
from infini_attention.data.recall import (
    NAMED_NEEDLE,
    NAMED_QUESTION,
    NEEDLE,
    OPENING,
    QUESTION,
    RecallSample,
    draw_key,
    encode_question,
)
from infini_attention.data.tokens import encode_after, tokenize_stream
from infini_attention.errors import InputError


@dataclass(frozen=True)
class WrittenKeys:
    """The start of a stream, and what can be asked of it later.

    Attributes:
        token_ids: `[T]` int64: the opening and all keys, one after the other.
        questions: for each key a sample of its own: the question and the answer, to go on with in a fork.
    """

    token_ids: Tensor
    questions: tuple[RecallSample, ...]


def written_keys(
    tokenizer: PreTrainedTokenizerBase, keys: int, rng: random.Random, *, with_needle: bool = True
) -> WrittenKeys:
    """Pass keys of as many people, with the wording of `keys`; a single one has no name, as in `passkey`.

    Args:
        tokenizer: of the model; a fast one.
        keys: how many; the names are those that only tests use.
        rng: draws names and keys.
        with_needle: False leaves the keys out: a control in which none can be known.

    Raises:
        InputError: more keys than names, or a tokenizer that does not give a key back.
    """
    if not 1 <= keys <= len(TEST_NAMES):
        raise InputError(f"keys must be between 1 and {len(TEST_NAMES)}, the names there are; got {keys}")
    names = [""] if keys == 1 else rng.sample(TEST_NAMES, keys)
    needle, question = (NEEDLE, QUESTION) if keys == 1 else (NAMED_NEEDLE, NAMED_QUESTION)
    pairs = [(name, draw_key(rng)) for name in names]
    ids = [token for piece in tokenize_stream([OPENING], tokenizer) for token in piece.token_ids]
    for name, key in pairs if with_needle else []:
        ids += encode_after(".", needle.format(name=name, key=key), tokenizer).token_ids
    quiz = [encode_question(tokenizer, question.format(name=name), key) for name, key in pairs]
    return WrittenKeys(
        torch.tensor(ids),
        tuple(
            RecallSample(
                torch.tensor(asked + answer),
                answers=((len(asked), len(asked) + len(answer)),),
                names=(name,),
                questions=((0, len(asked)),),
                sources=(None,),
            )
            for (name, _), (asked, answer) in zip(pairs, quiz, strict=True)
        ),
    )
