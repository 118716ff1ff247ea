"""Multi-query associative recall in a model's own tokens: pairs, a text, and each key once more.

After Zoology (Arora et al. 2023, arXiv 2312.04927), with two differences: running text stands between pairs and
questions, so that the pairs have left local attention; and the right value stands behind each key that is asked for,
where the next question finds it as training on such samples would have it.
"""

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from infini_attention.data.assembly import Assembly, Span
from infini_attention.data.haystack import Haystack
from infini_attention.data.recall import RecallSample
from infini_attention.data.tokens import tokenize_stream
from infini_attention.errors import InputError

VOCABULARY = 8192  # of Zoology: half of them keys, half values


@dataclass(frozen=True)
class PairTokens:
    """Tokens that pairs are made of; none is in the text between them, so that a key is met nowhere else.

    Attributes:
        keys: any of them may be a key.
        values: any of them may be a value; as many, and none is a key.
    """

    keys: tuple[int, ...]
    values: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, haystack: Haystack, most: int = VOCABULARY) -> "PairTokens":
        """The first `most` ordinary tokens, or as many as there are, in turn keys and values.

        Raises:
            InputError: there are fewer than two.
        """
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        taken = special.union(haystack.kinds())
        free = [token for token in range(len(tokenizer)) if token not in taken][:most]
        if len(free) < 2:
            raise InputError(
                f"pairs need tokens that the haystack does not have; of {len(tokenizer):,} there are {len(free)}: use "
                "another haystack"
            )
        return cls(tuple(free[0 : len(free) // 2 * 2 : 2]), tuple(free[1::2]))

    @property
    def chance(self) -> float:
        """Of a guess among the values."""
        return 1 / len(self.values)


def mqar_sample(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: random.Random,
    haystack: Haystack,
    tokens: PairTokens,
    *,
    pairs: int,
    questions: int,
    with_needle: bool = True,
) -> RecallSample:
    """`pairs` keys, each with its value behind it, then text, then `questions` of the keys in random order.

    Keys and values are drawn uniformly, no two alike.

    Args:
        tokenizer: of the model; its start token stands first, if it has one.
        length: tokens of the whole sample.
        rng: draws all there is to draw.
        haystack: the text.
        tokens: what keys and values are drawn from.
        pairs: how many.
        questions: keys that are asked for; at most `pairs`.
        with_needle: False has text in place of the pairs: a control in which no value can be known.

    Raises:
        InputError: a length that is too small, or more pairs than keys.
    """
    if not 1 <= questions <= pairs <= len(tokens.keys):
        raise InputError(
            f"pairs must be between 1 and {len(tokens.keys):,}, half of the tokens that the haystack leaves, and "
            f"questions between 1 and pairs; got {pairs} and {questions}"
        )
    drawn = list(zip(rng.sample(tokens.keys, pairs), rng.sample(tokens.values, pairs), strict=True))
    asked = rng.sample(range(pairs), questions)
    opening = [token for piece in tokenize_stream([], tokenizer) for token in piece.token_ids]
    used = len(opening) + 2 * pairs + 2 * questions
    if length < used:
        raise InputError(
            f"{length} tokens are too few for {pairs} pairs and {questions} questions, which take {used}; use a longer "
            "length or fewer pairs"
        )
    filler = haystack.cut(length - used + (0 if with_needle else 2 * pairs), rng)
    text = Assembly()
    text.add(opening)
    written = [text.add(pair) for pair in drawn] if with_needle else []
    text.add(filler)
    spans: list[tuple[Span, Span]] = [(text.add([drawn[at][0]]), text.add([drawn[at][1]])) for at in asked]
    return RecallSample(
        text.token_ids,
        answers=tuple(answer for _, answer in spans),
        needles=tuple(written),
        questions=tuple(question for question, _ in spans),
        sources=tuple(written[at] if written else None for at in asked),
    )
