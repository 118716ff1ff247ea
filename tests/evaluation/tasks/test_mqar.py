"""MQAR: who sees everything scores 1, a random model no more than chance."""

import pytest

from evaluation.readers import Ignorant, Oracle
from infini_attention.data.haystack import Haystack
from infini_attention.errors import ConfigError, InputError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stats import wilson_interval
from infini_attention.evaluation.stream import subject_of
from infini_attention.evaluation.tasks.mqar import MqarTask, summarize_mqar
from tiny import infini_model


class Associative(Oracle):
    """Says what stood behind this byte before."""

    def guess(self, row):
        known = row[self.forgotten :]
        place = known.rfind(known[-1:], 0, -1)
        return known[place + 1] if place >= 0 else 0


@pytest.fixture
def task(tokenizer, filler):
    def task(**options):
        return MqarTask(tokenizer, **{"haystack": filler, "lengths": (512,), "pairs": (8, 2), "samples": 3} | options)

    return task


def test_one_who_sees_everything(task, subject):
    records = run(task(questions=5), subject(Associative)[0], Journal())
    assert [(r["pairs"], r["questions"], r["answers"], r["exact"]) for r in records] == [(2, 2, 6, 1), (8, 5, 15, 1)]
    assert all(record["outside_window"] == record["answers"] for record in records)
    result = summarize_mqar(records, "pairs")
    assert result["chance"] == 2 / result["cells"][0]["vocabulary"]
    assert [(place["pairs"], place["exact"], place["state_bytes"]) for place in result["curve"]] == [
        (2, 1, 1000),
        (8, 1, 1000),
    ]
    assert result["curve"][0]["interval"] == list(wilson_interval(6, 6))


@pytest.mark.parametrize(
    ("reader", "options"),
    [(Ignorant, {}), (Associative, {"memory": False}), (Associative, {"with_needle": False})],
    ids=["ignorant", "memory off", "no pairs"],
)
def test_controls_find_nothing(task, subject, reader, options):
    result = summarize_mqar(run(task(**options), subject(reader)[0], Journal()), "pairs")
    assert result["accuracy"] == 0


def test_a_random_model_is_at_chance(task):
    """It answers with any token: 1 in 257, and less than a guess among the values."""
    wanted = task(pairs=(16,), samples=20)
    [record] = run(wanted, subject_of(infini_model()), Journal())
    assert record["answers"] == 320
    assert wilson_interval(record["hits"], record["answers"])[0] <= wanted.tokens.chance


def test_what_cannot_be(tokenizer, filler, task):
    with pytest.raises(InputError, match="tokens are too few for 8 pairs"):
        task(lengths=(16,))
    with pytest.raises(InputError, match="pairs must be between 1 and"):
        task(pairs=(1000,))
    with pytest.raises(ConfigError, match="must be at least 1"):
        task(pairs=())


def test_another_haystack_leaves_other_tokens(task):
    book = Haystack(list(b"another text. "), name="book")
    assert (
        task().key({"length": 512, "pairs": 2})["vocabulary"]
        < task(haystack=book).key({"length": 512, "pairs": 2})["vocabulary"]
    )
