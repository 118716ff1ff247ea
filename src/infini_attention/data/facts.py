"""Samples that state facts in the flow of a text and ask about them much later, as `ask` does."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from infini_attention.data.assembly import Assembly
from infini_attention.data.chat import PLAIN_QUESTION, ChatTemplate
from infini_attention.data.haystack import Haystack, sentence_ends
from infini_attention.data.names import TRAIN_NAMES
from infini_attention.data.recall import RecallSample, draw_key
from infini_attention.data.tokens import encode_after
from infini_attention.data.words import ADJECTIVES, NOUNS
from infini_attention.errors import InputError

_CITIES = [
    "Athens",
    "Berlin",
    "Boston",
    "Cairo",
    "Chicago",
    "Dublin",
    "Geneva",
    "Havana",
    "Lima",
    "Lisbon",
    "London",
    "Madrid",
    "Milan",
    "Moscow",
    "Mumbai",
    "Oslo",
    "Paris",
    "Prague",
    "Rome",
    "Seoul",
    "Sydney",
    "Tokyo",
    "Toronto",
    "Vienna",
    "Warsaw",
]
_JOBS = [
    "baker",
    "carpenter",
    "doctor",
    "farmer",
    "gardener",
    "lawyer",
    "miller",
    "painter",
    "pilot",
    "plumber",
    "sailor",
    "singer",
    "tailor",
    "teacher",
]
_COLOURS = [
    "black",
    "blue",
    "brown",
    "golden",
    "green",
    "grey",
    "orange",
    "pink",
    "purple",
    "red",
    "silver",
    "white",
    "yellow",
]
_FOODS = [
    "apples",
    "bread",
    "cheese",
    "cherries",
    "fish",
    "honey",
    "lentils",
    "mushrooms",
    "noodles",
    "olives",
    "pancakes",
    "rice",
    "soup",
    "walnuts",
]
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]  # fmt: skip


def _thing(rng: random.Random) -> str:
    return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"


def _sentence(rng: random.Random) -> str:
    return f"The {_thing(rng)} is {rng.choice(('under', 'behind', 'beside', 'above'))} the {_thing(rng)}."


@dataclass(frozen=True)
class Kind:
    """One thing that can be known about a person: how it is said, how it is asked for, and what it may be."""

    statements: tuple[str, ...]
    question: str
    value: Callable[[random.Random], str]
    answer: str = "{value}"


KINDS: dict[str, Kind] = {
    "key": Kind(
        ("The pass key of {name} is {value}.", "{name} told me the pass key: {value}."),
        "What is the pass key of {name}?",
        draw_key,
    ),
    "room": Kind(
        ("{name} sleeps in room {value}.", "{name} has taken room number {value}."),
        "What is the number of {name}'s room?",
        lambda rng: str(rng.randrange(100, 1000)),
    ),
    "city": Kind(
        ("{name} lives in {value}.", "{name} has a house in {value}."),
        "Where does {name} live?",
        lambda rng: rng.choice(_CITIES),
    ),
    "job": Kind(
        ("{name} works as a {value}.", "{name} became a {value}."),
        "What is the profession of {name}?",
        lambda rng: rng.choice(_JOBS),
    ),
    "colour": Kind(
        ("The favourite colour of {name} is {value}.", "{name} loves the colour {value}."),
        "What is the favourite colour of {name}?",
        lambda rng: rng.choice(_COLOURS),
    ),
    "food": Kind(
        ("{name} eats nothing but {value}.", "{name} likes {value} best of all."),
        "What does {name} like to eat?",
        lambda rng: rng.choice(_FOODS),
    ),
    "birthday": Kind(
        ("{name} was born on the {value}.", "The birthday of {name} is the {value}."),
        "When is the birthday of {name}?",
        lambda rng: f"{rng.randint(1, 28)} {rng.choice(_MONTHS)}",
    ),
    "hidden": Kind(
        ("{name} has hidden the letter in the {value}.", "{name} keeps the letter in the {value}."),
        "Where is the letter of {name}?",
        _thing,
        "in the {value}",
    ),
    "said": Kind(
        ('{name} said: "{value}"', '"{value}" said {name}.'),
        "What did {name} say?",
        _sentence,
    ),
}


def facts(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: random.Random,
    haystack: Haystack,
    *,
    count: int,
    questions: int,
    names: Sequence[str] = TRAIN_NAMES,
    with_needle: bool = True,
) -> RecallSample:
    """A text in which facts are stated behind sentences, and then questions about some of them, each answered.

    The questions are turns of a conversation in the model's chat template, or "Question: ... Answer:" without one. No
    two facts have the same person and the same kind.

    Args:
        tokenizer: of the model; a fast one.
        length: tokens of the whole sample.
        rng: draws all there is to draw.
        haystack: the text.
        count: facts.
        questions: how many of them are asked about, in random order.
        names: first names to draw from.
        with_needle: False states none of the facts and asks the same: a control.

    Raises:
        InputError: a length that is too small, or counts that do not fit together.
    """
    pairs = [(name, kind) for name in rng.sample(list(names), min(count, len(names))) for kind in KINDS]
    if not 1 <= questions <= count <= len(pairs):
        raise InputError(
            f"facts must be between 1 and {len(pairs)}, and questions between 1 and as many as there are facts; got "
            f"{count} and {questions}"
        )
    known = [(name, KINDS[kind], KINDS[kind].value(rng)) for name, kind in rng.sample(pairs, count)]
    hidden = [
        encode_after(".", " " + rng.choice(kind.statements).format(name=name, value=value), tokenizer).token_ids
        for name, kind, value in known
    ]
    asked = rng.sample(range(count), questions)
    if not with_needle:
        hidden = []
    quiz = _quiz(tokenizer, [_question(*known[number]) for number in asked])
    used = sum(map(len, hidden)) + sum(len(before) + len(answer) for before, answer in quiz)
    if length < used:
        raise InputError(
            f"{length} tokens are too few for {count} facts and {questions} questions, which take {used} with this "
            "tokenizer; use a longer length or fewer facts"
        )
    filler = haystack.cut(length - used, rng)
    text = Assembly()
    needles = text.hide(hidden, sentence_ends(tokenizer, filler, len(hidden), rng), filler)
    spans = [(text.add(before), text.add(answer)) for before, answer in quiz]
    return RecallSample(
        text.token_ids,
        answers=tuple(answer for _, answer in spans),
        needles=needles,
        names=tuple(known[number][0] for number in asked),
        questions=tuple(question for question, _ in spans),
        sources=tuple(needles[number] if with_needle else None for number in asked),
    )


def _question(name: str, kind: Kind, value: str) -> tuple[str, str]:
    return kind.question.format(name=name), kind.answer.format(value=value)


def _quiz(tokenizer: PreTrainedTokenizerBase, asked: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """For each question, the tokens in front of the answer, and those of the answer with what ends it."""
    if not tokenizer.chat_template:
        return [
            (_encode(tokenizer, PLAIN_QUESTION.format(question=question)), _encode(tokenizer, f" {answer}\n"))
            for question, answer in asked
        ]
    template = ChatTemplate(tokenizer)
    closing = template.closing
    ends = template.end_tokens.intersection(closing[:1])
    between: list[int] = []
    quiz = []
    for number, (question, answer) in enumerate(asked):
        turn = template.following(question) if number else template.first(question)
        quiz.append((between + turn, _encode(tokenizer, answer) + closing[: len(ends)]))
        between = closing[len(ends) :]
    return quiz


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
