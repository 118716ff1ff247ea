"""Samples in the style of RULER whose whole text is items of one kind: as many as fit.

Among needles of the same form, one is asked for (`niah_multikey_2`, and `niah_multikey_3` with UUIDs for keys and
values); in a list of words the ten that stand there ten times as often as the others (`cwe`); in a coded text the three
most frequent words, whose frequencies follow a zeta distribution with exponent 2 (`fwe`).
"""

import math
import random
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from infini_attention.data.ruler_text import needle, wording
from infini_attention.data.words import WORD_KEYS, word_keys

COMMON, OFTEN, RARELY = 10, 10, 3  # common words; how often they stand for once of another one; how often those stand
FREQUENT, NOISE = 3, "..."
_MOST = 1 << 30


@dataclass(frozen=True)
class ListPuzzle:
    """A sample that is a list.

    Attributes:
        opening: stands before the list.
        parts: what stands before the needle, the needle, and what stands behind it; a list without one is all before.
        question: stands behind it.
        expected: strings that a right answer contains.
    """

    opening: str
    parts: tuple[str, str, str]
    question: str
    expected: list[str]


@dataclass(frozen=True)
class ListKind:
    """A list of any number of items.

    Attributes:
        least: items that there must be.
        most: items that there can be.
        draw: a puzzle of so many items; False leaves out what is asked about.
    """

    least: int
    most: int
    draw: Callable[[int, random.Random, bool], ListPuzzle]


def _numbers(count: int, rng: random.Random, with_needle: bool) -> ListPuzzle:
    values = map(str, rng.sample(range(1_000_000, 10_000_000), count))
    return _among("number", list(zip(word_keys(count, rng), values, strict=True)), rng, with_needle)


def _uuids(count: int, rng: random.Random, with_needle: bool) -> ListPuzzle:
    drawn = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(2 * count)]
    return _among("uuid", list(zip(drawn[:count], drawn[count:], strict=True)), rng, with_needle)


def _among(what: str, pairs: list[tuple[str, str]], rng: random.Random, with_needle: bool) -> ListPuzzle:
    """All pairs as needles, and a question about one."""
    at = rng.randrange(len(pairs))
    opening, question = wording(what, [pairs[at][0]], one=True)
    told = [needle(what, *pair) for pair in pairs]
    parts = ("".join(told[:at]), told[at] if with_needle else "", "".join(told[at + 1 :]))
    return ListPuzzle(opening, parts, question, [pairs[at][1]])


def _common_words(repeats: int) -> Callable[[int, random.Random, bool], ListPuzzle]:
    """A numbered list in which `count` words stand `repeats` times each, and ten stand ten times as often."""

    def draw(count: int, rng: random.Random, with_needle: bool) -> ListPuzzle:
        words = word_keys(COMMON + count, rng)
        common, others = words[:COMMON], words[COMMON:] * repeats
        listed = others + (common * (OFTEN * repeats) if with_needle else [])
        rng.shuffle(listed)
        return ListPuzzle(
            "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones "
            "that appear most often.\n",
            (" ".join(f"{number}. {word}" for number, word in enumerate(listed, 1)), "", ""),
            f"\nQuestion: What are the {COMMON} most common words in the above list? Answer: The top {COMMON} words "
            "that appear most often in the list are:",
            common,
        )

    return draw


def _frequent_words(count: int, rng: random.Random, with_needle: bool) -> ListPuzzle:
    """A text of about `count` words: the most frequent one is noise, and the next three are asked for."""
    counts = [int(count / rank**2 * 6 / math.pi**2) for rank in range(1, math.isqrt(count) + 1)]
    counts = [each for each in counts if each]  # falling, so that the fifth word is rarer than the fourth
    coded: dict[str, None] = {NOISE: None}
    while len(coded) < len(counts):
        coded["".join(rng.choices(string.ascii_lowercase, k=6))] = None
    words = list(coded)
    expected = words[1 : 1 + FREQUENT]
    text = [word for word, times in zip(words, counts, strict=True) for _ in range(times)]
    text = [word for word in text if with_needle or word not in expected]
    rng.shuffle(text)
    return ListPuzzle(
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
        "appeared coded words.\n",
        (" ".join(text), "", ""),
        "\nQuestion: Do not provide any explanation. Please ignore the dots '...'. What are the three most frequently "
        "appeared words in the above coded text? Answer: According to the coded text above, the three most frequently "
        "appeared words are:",
        expected,
    )


# In order of preference: a short text may have no room for the first.
LISTS: dict[str, tuple[ListKind, ...]] = {
    "niah_multikey_2": (ListKind(2, WORD_KEYS, _numbers),),
    "niah_multikey_3": (ListKind(2, _MOST, _uuids),),
    "cwe": tuple(ListKind(2 * COMMON, WORD_KEYS - COMMON, _common_words(repeats)) for repeats in (RARELY, 1)),
    "fwe": (ListKind(100, _MOST, _frequent_words),),
}
