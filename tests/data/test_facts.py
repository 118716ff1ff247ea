"""Facts in the flow of a text, and the questions about them."""

import random

import pytest

from chats import END, chat_tokenizer
from infini_attention.data.facts import KINDS, facts
from infini_attention.data.haystack import Haystack
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import InputError

TEXT = "It was a fine day. Nobody came to see her! What was to be done? She did not know."


def haystack(tokenizer):
    return Haystack(tokenizer(TEXT * 50, add_special_tokens=False)["input_ids"], random_start=False)


def spans_as_text(tokenizer, sample, spans):
    return [tokenizer.decode(sample.token_ids[start:stop].tolist()) for start, stop in spans]


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), chat_tokenizer()], ids=["plain", "chat"])
@pytest.mark.parametrize("seed", range(5))
def test_each_answer_is_told_by_its_source(tokenizer, seed):
    sample = facts(tokenizer, 3000, random.Random(seed), haystack(tokenizer), count=6, questions=4)
    assert sample.token_ids.shape == (3000,)
    assert len(sample.needles) == 6 and len(sample.answers) == len(sample.questions) == len(sample.sources) == 4
    needles = spans_as_text(tokenizer, sample, sample.sources)
    answers = spans_as_text(tokenizer, sample, sample.answers)
    questions = spans_as_text(tokenizer, sample, sample.questions)
    for name, needle, answer, question in zip(sample.names, needles, answers, questions, strict=True):
        assert name in needle and name in question
        assert answer.removesuffix(END).strip().removeprefix("in ") in needle
    for (_, stop), (start, _) in zip(sample.questions, sample.answers, strict=True):
        assert stop == start
    assert sample.answers[-1][1] == 3000


def test_facts_stand_behind_sentences():
    tokenizer = byte_tokenizer()
    sample = facts(tokenizer, 3000, random.Random(1), haystack(tokenizer), count=6, questions=1)
    for start, _ in sample.needles:
        assert tokenizer.decode(sample.token_ids[start - 1 : start].tolist()) in ".!?"


def test_no_two_facts_answer_the_same_question():
    tokenizer = byte_tokenizer()
    sample = facts(tokenizer, 20_000, random.Random(0), haystack(tokenizer), count=60, questions=60)
    questions = spans_as_text(tokenizer, sample, sample.questions)
    assert len(set(questions)) == 60
    assert len({kind for kind in KINDS if KINDS[kind].question.partition("{name}")[0] in "".join(questions)}) == len(
        KINDS
    )


def test_the_questions_are_those_of_a_conversation():
    tokenizer = chat_tokenizer()
    sample = facts(tokenizer, 3000, random.Random(2), haystack(tokenizer), count=3, questions=3)
    start = sample.questions[0][0]
    said = tokenizer.decode(sample.token_ids[start:].tolist())
    turns = []
    for question, answer in zip(
        spans_as_text(tokenizer, sample, sample.questions),
        spans_as_text(tokenizer, sample, sample.answers),
        strict=True,
    ):
        turns.append(question + answer)
    assert said == "".join(turns)


@pytest.mark.parametrize(
    "counts", [{"count": 0, "questions": 0}, {"count": 2, "questions": 3}, {"count": 10_000, "questions": 1}]
)
def test_counts_that_cannot_be(counts):
    tokenizer = byte_tokenizer()
    with pytest.raises(InputError, match="facts must be between"):
        facts(tokenizer, 3000, random.Random(0), haystack(tokenizer), **counts)


def test_too_short():
    tokenizer = byte_tokenizer()
    with pytest.raises(InputError, match="too few for 6 facts"):
        facts(tokenizer, 100, random.Random(0), haystack(tokenizer), count=6, questions=1)
