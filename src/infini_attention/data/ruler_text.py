"""What samples in the style of RULER say (Hsieh et al. 2024, arXiv 2404.06654): needles, questions and their answers.

The wording is that of the paper's appendix, with the beginning of the answer at the end of the question, as the paper
has it for base models. It ends without a space, which belongs to the first token of the answer.
"""

import random
import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from infini_attention.data.words import word_keys


@dataclass(frozen=True)
class Kind:
    """What the samples of a subtask are like.

    Attributes:
        haystack: `repeat` or `book`; `list` for one that is made of items of the puzzle's own, as many as fit.
        new_tokens: at most so many are written as the answer; the prompt leaves room for them.
        asked: keys that are asked about.
        values: of each key.
        others: keys that nobody asks about.
        hops: of a chain of variables, which has one more of them; 0 means keys and values.
        uuids: whether values are UUIDs rather than numbers of seven digits.
    """

    haystack: str
    new_tokens: int
    asked: int = 1
    values: int = 1
    others: int = 0
    hops: int = 0
    uuids: bool = False


# As many needles as in the paper, whose answers may have 128 tokens, and 30 for the variables. Here a single number has
# 30, and the variables 64: where tokens are single letters, five variables take more than 30.
NEEDLES = {
    "niah_single_1": Kind("repeat", 30),
    "niah_single_2": Kind("book", 30),
    "niah_single_3": Kind("book", 128, uuids=True),
    "niah_multikey_1": Kind("book", 30, others=3),
    "niah_multikey_2": Kind("list", 30),
    "niah_multikey_3": Kind("list", 128, uuids=True),
    "niah_multivalue": Kind("book", 128, values=4),
    "niah_multiquery": Kind("book", 128, asked=4),
}
KINDS = NEEDLES | {
    "vt": Kind("repeat", 64, hops=4),
    "cwe": Kind("list", 200),  # ten words, each as long as two
    "fwe": Kind("list", 50),
}


@dataclass(frozen=True)
class Puzzle:
    """A sample without its filler.

    Attributes:
        opening: stands before the filler.
        needles: sentences, in the order in which they are hidden in it.
        question: stands behind it.
        expected: strings that a right answer contains.
        tells: for each of them, the number of the needle that tells it.
    """

    opening: str
    needles: list[str]
    question: str
    expected: list[str]
    tells: list[int]


def draw_puzzle(kind: Kind, rng: random.Random) -> Puzzle:
    """One of the kind; `rng` draws keys, values, names, and the order of needles."""
    return _variables(kind, rng) if kind.hops else _keys(kind, rng)


def _keys(kind: Kind, rng: random.Random) -> Puzzle:
    """Keys with their values, each pair a needle, in random order."""
    what = "uuid" if kind.uuids else "number"
    keys, count = word_keys(kind.asked + kind.others, rng), (kind.asked + kind.others) * kind.values
    if kind.uuids:
        drawn = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]
    else:
        drawn = [str(number) for number in rng.sample(range(1_000_000, 10_000_000), count)]
    pairs = [(key, drawn.pop()) for key in keys for _ in range(kind.values)]
    order = rng.sample(range(count), count)
    expected = list(range(kind.asked * kind.values))
    if kind.asked == 1:  # values of one key are named in the order of the text
        expected.sort(key=order.index)
    opening, question = wording(what, keys[: kind.asked], one=len(expected) == 1)
    return Puzzle(
        opening,
        [needle(what, *pairs[at]) for at in order],
        question,
        [pairs[at][1] for at in expected],
        [order.index(at) for at in expected],
    )


def needle(what: str, key: str, value: str) -> str:
    """The sentence that tells a value."""
    return f" One of the special magic {what}s for {key} is: {value}."


def wording(what: str, asked: Sequence[str], *, one: bool) -> tuple[str, str]:
    """Opening and question about the values of some keys, of which there is `one` in all, or more."""
    keys = _listing(asked)
    some, them = ("A", what) if one else ("Some", f"{what}s")
    are, the = ("is", "the") if one else ("are", "all the")
    return (
        f"{some} special magic {them} {are} hidden within the following text. Make sure to memorize it. I will quiz "
        f"you about the {them} afterwards.\n",
        f"\nWhat {are} {the} special magic {them} for {keys} mentioned in the provided text? The special magic {them} "
        f"for {keys} mentioned in the provided text {are}",
    )


def _variables(kind: Kind, rng: random.Random) -> Puzzle:
    """A chain of variables, each a needle, in its order."""
    names: dict[str, None] = {}
    while len(names) <= kind.hops:
        names["".join(rng.choices(string.ascii_uppercase, k=5))] = None
    chain, value = list(names), str(rng.randrange(10_000, 100_000))
    assigned = [value, *(f"VAR {name}" for name in chain)]
    return Puzzle(
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n",
        [f" VAR {name} = {what}." for name, what in zip(chain, assigned, strict=False)],
        f"\nQuestion: Find all variables that are assigned the value {value} in the text above. Answer: According to "
        f"the chain(s) of variable assignment in the text above, {len(chain)} variables are assigned the value "
        f"{value}, they are:",
        chain,
        list(range(len(chain))),
    )


def _listing(words: Sequence[str]) -> str:
    """`a`, or `a, b, and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, and {words[-1]}"
