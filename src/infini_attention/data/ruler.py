"""Samples in the style of RULER (Hsieh et al. 2024, arXiv 2404.06654): prompts of exact lengths.

What differs from the paper's: the haystack `book` is a text of the user's instead of essays; needles stand behind
sentences of running text, never on lines of their own; `vt` and `cwe` have no example before them; the words of `cwe`
are pairs such as `amber-harbor`; and the filler ends anywhere.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from infini_attention.data.assembly import Assembly
from infini_attention.data.haystack import Haystack, sentence_ends
from infini_attention.data.recall import RecallSample
from infini_attention.data.ruler_lists import LISTS, ListKind, ListPuzzle
from infini_attention.data.ruler_text import KINDS, Puzzle, draw_puzzle
from infini_attention.data.tokens import encode_after, tokenize_stream
from infini_attention.errors import InputError


@dataclass(frozen=True)
class RulerSample(RecallSample):
    """A prompt, `token_ids [T]`, and what its continuation should contain.

    There is one question, at the end of the prompt or in front of the answers; `questions` and `sources` have an entry
    for each expected string. For a variable, the source is the needle that assigns to it; those that it hangs on stand
    before it. What all of a list tells (`cwe`, `fwe`) has no needle, and no source.

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
    haystack: Haystack | None,
    *,
    with_needle: bool = True,
    answered: bool = False,
) -> RulerSample:
    """A sample of subtask `name` whose prompt and answer together take at most `length` tokens.

    Args:
        tokenizer: of the model; a fast one.
        name: of `KINDS`.
        length: the prompt has exactly so many tokens, less the `new_tokens` of its kind; a list ends with its last
            whole item before that.
        rng: draws all there is to draw.
        haystack: the filler; None for a list.
        with_needle: False leaves out the needles that are asked about, which makes the answer unknowable: a control.
        answered: the answer follows, and the sample has exactly `length` tokens: for training. Not of a list.

    Raises:
        InputError: a length that is too small, or a tokenizer that changes the needles.
    """
    kind = KINDS[name]
    if haystack is None:
        return _list_sample(tokenizer, name, length, rng, with_needle)
    puzzle = draw_puzzle(kind, rng)
    opening = _encode(tokenizer, puzzle.opening, start=True)
    question = encode_after(".", puzzle.question, tokenizer).token_ids
    kept = [number for number in range(len(puzzle.needles)) if with_needle or number not in puzzle.tells]
    hidden = [encode_after(".", puzzle.needles[number], tokenizer).token_ids for number in kept]
    answer = [_encode(tokenizer, part) for part in _parts(puzzle.expected)] if answered else []
    room = sum(map(len, answer)) if answered else kind.new_tokens
    used, total = len(opening) + sum(map(len, hidden)) + len(question), length - room
    if total < used:
        raise _too_short(name, length, used + room)
    filler = haystack.cut(total - used, rng)
    _check_told(tokenizer, puzzle, dict(zip(kept, hidden, strict=True)))
    text = Assembly()
    text.add(opening)
    needles = text.hide(hidden, sentence_ends(tokenizer, filler, len(kept), rng), filler)
    spans, asked = dict(zip(kept, needles, strict=True)), text.add(question)
    answers = tuple(text.add(part) for part in answer)
    return RulerSample(
        text.token_ids,
        answers=answers,
        needles=needles,
        questions=(asked,) * len(puzzle.expected),
        sources=tuple(spans.get(number) for number in puzzle.tells),
        expected=tuple(puzzle.expected),
        new_tokens=kind.new_tokens,
    )


def _parts(expected: Sequence[str]) -> list[str]:
    """` a`, `, b`, `, c.`: an answer that names them all."""
    return [
        f"{', ' if number else ' '}{value}{'.' if number == len(expected) - 1 else ''}"
        for number, value in enumerate(expected)
    ]


def _check_told(tokenizer: PreTrainedTokenizerBase, puzzle: Puzzle, hidden: dict[int, list[int]]) -> None:
    """Raises `InputError` where a needle no longer says what is expected of it."""
    for expected, number in zip(puzzle.expected, puzzle.tells, strict=True):
        found = tokenizer.decode(hidden[number]) if number in hidden else expected
        if expected.casefold() not in str(found).casefold():
            raise InputError(
                f"this tokenizer does not give {expected} back, it became {found!r}; use another tokenizer"
            )


def _list_sample(
    tokenizer: PreTrainedTokenizerBase, name: str, length: int, rng: random.Random, with_needle: bool
) -> RulerSample:
    """A sample whose text is as many items as fit."""
    seed, total = rng.getrandbits(64), length - KINDS[name].new_tokens
    for kind in LISTS[name]:

        def draw(
            count: int, with_needle: bool = True, draw: Callable[..., ListPuzzle] = kind.draw
        ) -> tuple[ListPuzzle, Assembly]:
            puzzle = draw(count, random.Random(seed), with_needle)
            text = Assembly()
            text.add(_encode(tokenizer, puzzle.opening, start=True))
            before, needle, after = puzzle.parts
            text.add(_encode(tokenizer, before))
            text.add(encode_after(".", needle, tokenizer).token_ids)
            text.add(_encode(tokenizer, after))
            text.add(encode_after(".", puzzle.question, tokenizer).token_ids)
            return puzzle, text

        used = draw(kind.least)[1].count
        if used <= total:
            break
    else:
        raise _too_short(name, length, used + KINDS[name].new_tokens)
    try:
        # The control has the same list, less what it leaves out.
        puzzle, text = draw(_fit(lambda count: draw(count)[1].count, total, kind), with_needle)
    except OverflowError as error:
        raise InputError(
            f"{length} tokens are too many for {name}, which has {kind.most:,} different items; use a shorter length"
        ) from error
    # opening, what stands before the needle, the needle, what stands behind it, question
    borders = [0]
    for part in text.parts:
        borders.append(borders[-1] + len(part))
    hidden, asked = (borders[2], borders[3]), (borders[4], borders[5])
    needles = (hidden,) if puzzle.parts[1] else ()
    return RulerSample(
        text.token_ids,
        answers=(),
        needles=needles,
        questions=(asked,) * len(puzzle.expected),
        sources=(needles or (None,)) * len(puzzle.expected),
        expected=tuple(puzzle.expected),
        new_tokens=KINDS[name].new_tokens,
    )


def _fit(size: Callable[[int], int], total: int, kind: ListKind) -> int:
    """About the most items whose `size` is at most `total`; each attempt writes all of the text, so there are few.

    Raises:
        OverflowError: more than the kind has.
    """
    least = kind.least
    small = size(least)
    each = (size(2 * least) - small) / least
    count = least + int((total - small) / each)
    if count > kind.most:
        raise OverflowError
    while (over := size(count) - total) > 0 and count > least:
        count = max(least, count - 1 - int(over / each))
    return count


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, start: bool = False) -> list[int]:
    return [token for piece in tokenize_stream([text], tokenizer, start=start) for token in piece.token_ids]


def _too_short(name: str, length: int, used: int) -> InputError:
    return InputError(
        f"{length} tokens are too few for {name}, which takes {used} with this tokenizer, its answer included; use a "
        "longer length"
    )
