"""BABILong-style tasks: who sees everything scores 1, who guesses is at chance, and the score is the official one."""

import re

import pytest

from evaluation.readers import Writer
from infini_attention.data.babi import SPLITS, TASKS
from infini_attention.data.haystack import Haystack
from infini_attention.errors import ConfigError, InputError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import subject_of
from infini_attention.evaluation.tasks.babilong import BabilongTask, is_right
from stories import solve
from tiny import book, infini_model

LENGTH = 2500
PLACES = SPLITS["seen"].places


class Reader(Writer):
    asked = re.compile(rb"\n\nQuestion: [^\n]*\nAnswer:")

    def answers(self, known, question):
        asked = re.search(rb"Question: (.*)\n", question)[1].decode()
        return [self.answer(known.decode(errors="replace"), asked).encode()]

    def answer(self, known, asked):
        return solve(known, asked)


class Constant(Reader):
    """Knows nothing but what bAbI is like."""

    def answer(self, known, asked):
        return "kitchen" if asked.startswith("Where") else "office" if "of" in asked else "Mary"


@pytest.fixture(scope="module")
def haystack():
    return Haystack(list(book(50_000).encode()), name="book")


@pytest.fixture
def task(tokenizer, haystack):
    def task(*subtasks, **options):
        defaults = {"haystack": haystack, "lengths": (LENGTH,), "samples": 3, "subtasks": subtasks or tuple(TASKS)}
        return BabilongTask(tokenizer, **defaults | options)

    return task


@pytest.mark.parametrize("split", SPLITS)
def test_one_who_sees_everything(task, subject, split):
    records = run(task(split=split), subject(Reader)[0], Journal())
    assert [(record["question"], record["exact"]) for record in records] == [(name, 1) for name in TASKS]
    assert {record["split"] for record in records} == {split}
    assert sum(record["outside_window"] for record in records) > 12  # of 15


def test_who_guesses_is_at_chance(task, subject):
    records = run(task("qa1", "qa2", samples=60), subject(Constant)[0], Journal())
    assert sum(record["hits"] for record in records) / 120 == pytest.approx(1 / 6, abs=0.12)


@pytest.mark.parametrize("options", [{"memory": False}, {"with_needle": False}], ids=["memory off", "no facts"])
def test_controls_find_nothing(task, subject, options):
    records = run(task(**options), subject(Reader)[0], Journal())
    assert [record["hits"] for record in records] == [0] * 5  # this reader never guesses


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("garden", True),
        (" The Garden", True),
        ("Mary is in the garden. John is in the office.", True),
        ("garden or office", False),
        ("office. garden", False),
        ("", False),
        ("in the house", False),
        ("Not the hallway but the garden.", True),  # the question names the hallway
    ],
)
def test_the_official_score(said, right):
    assert is_right(said, "Where was the milk before the hallway?", "garden", PLACES) == right


def test_without_a_chat_template_the_answer_is_one_line(task, subject):
    class Rambling(Reader):
        def answer(self, known, asked):
            return super().answer(known, asked) + "\nQuestion: office, kitchen"

    [record] = run(task("qa4"), subject(Rambling)[0], Journal())
    assert record["exact"] == 1


def test_a_random_model_knows_nothing(task):
    [record] = run(task("qa1", samples=2), subject_of(infini_model()), Journal())
    assert record["hits"] == 0


def test_splits_are_different_cells(task, subject):
    journal = Journal()
    for options in ({}, {"split": "held-out"}, {"samples": 2}, {"seed": 1}, {}):
        run(task("qa4", **options), subject(Reader)[0], journal)
    assert len(journal.records) == 4


def test_what_cannot_be(task):
    with pytest.raises(ConfigError, match=r"tasks must be some of qa1, .* got 'qa6'"):
        task("qa6")
    with pytest.raises(ConfigError, match="split must be seen or held-out; got 'new'"):
        task(split="new")
    with pytest.raises(InputError, match="tokens are too few for qa"):
        task(lengths=(120,))
