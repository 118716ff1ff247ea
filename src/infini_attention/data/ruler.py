"""Samples in the style of RULER (Hsieh et al. 2024, arXiv 2404.06654): prompts of exact lengths.

What differs from the paper's: the haystack `book` is a text of the user's instead of essays; needles stand behind
sentences of running text, never on lines of their own; `vt` has no example before it; and the filler ends anywhere.
"""

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from infini_attention.data.assembly import Assembly
from infini_attention.data.haystack import Haystack, sentence_ends
from infini_attention.data.recall import RecallSample
from infini_attention.data.ruler_text import KINDS, Puzzle, draw_puzzle
from infini_attention.data.tokens import encode_after, tokenize_stream
from infini_attention.errors import InputError


@dataclass(frozen=True)
class RulerSample(RecallSample):
    """A prompt, `token_ids [T]`, and what its continuation should contain.

    There is one question, at the end of the prompt; `questions` and `sources` have an entry for each expected string.
    For a variable, the source is the needle that assigns to it; those that it hangs on stand before it.

    Attributes:
        expected: strings; the score is the share of them that is written, in upper or lower case.
        new_tokens: at most so many are written.
    """

    expected: tuple[str, ...] = ()
    new_tokens: int = 0


def ruler_sample(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    length: int,
    rng: random.Random,
    haystack: Haystack,
    *,
    with_needle: bool = True,
) -> RulerSample:
    """A sample of subtask `name` whose prompt and answer together take at most `length` tokens.

    Args:
        tokenizer: of the model; a fast one.
        name: of `KINDS`.
        length: the prompt has exactly so many tokens, less the `new_tokens` of its kind.
        rng: draws all there is to draw.
        haystack: the filler.
        with_needle: False leaves out the needles that are asked about, which makes the answer unknowable: a control.

    Raises:
        InputError: a length that is too small, or a tokenizer that changes the needles.
    """
    kind = KINDS[name]
    puzzle = draw_puzzle(kind, rng)
    opening = [token for piece in tokenize_stream([puzzle.opening], tokenizer) for token in piece.token_ids]
    question = encode_after(".", puzzle.question, tokenizer).token_ids
    kept = [number for number in range(len(puzzle.needles)) if with_needle or number not in puzzle.tells]
    hidden = [encode_after(".", puzzle.needles[number], tokenizer).token_ids for number in kept]
    used, total = len(opening) + sum(map(len, hidden)) + len(question), length - kind.new_tokens
    if total < used:
        raise InputError(
            f"{length} tokens are too few for {name}, which takes {used + kind.new_tokens} with this tokenizer, its "
            "answer included; use a longer length"
        )
    filler = haystack.cut(total - used, rng)
    _check_told(tokenizer, puzzle, dict(zip(kept, hidden, strict=True)))
    text = Assembly()
    text.add(opening)
    needles = text.hide(hidden, sentence_ends(tokenizer, filler, len(kept), rng), filler)
    spans, asked = dict(zip(kept, needles, strict=True)), text.add(question)
    return RulerSample(
        text.token_ids,
        answers=(),
        needles=needles,
        questions=(asked,) * len(puzzle.expected),
        sources=tuple(spans.get(number) for number in puzzle.tells),
        expected=tuple(puzzle.expected),
        new_tokens=kind.new_tokens,
    )


def _check_told(tokenizer: PreTrainedTokenizerBase, puzzle: Puzzle, hidden: dict[int, list[int]]) -> None:
    """Raises `InputError` where a needle no longer says what is expected of it."""
    for expected, number in zip(puzzle.expected, puzzle.tells, strict=True):
        found = tokenizer.decode(hidden[number]) if number in hidden else expected
        if expected.casefold() not in str(found).casefold():
            raise InputError(
                f"this tokenizer does not give {expected} back, it became {found!r}; use another tokenizer"
            )
