"""The curve of forgetting: one stream, whose questions leave no trace in it."""

import pytest

from evaluation.readers import Ignorant, Oracle
from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.report.recall_pictures import save_forgetting
from infini_attention.evaluation.stream import Subject, subject_of
from infini_attention.evaluation.tasks.retention import RetentionTask, most_tokens, run_retention, summarize_retention
from tiny import base_model, infini_model

UNIT = 64


@pytest.fixture
def task(tokenizer, filler):
    def task(**options):
        return RetentionTask(
            tokenizer, **{"haystack": filler, "segments": (1, 2, 8), "keys": 3, "samples": 2} | options
        )

    return task


def test_one_who_keeps_everything(task, subject):
    records = run_retention(task(), subject()[0], Journal())
    result = summarize_retention(records)
    assert [(place["segments"], place["tokens"], place["exact"]) for place in result["curve"]] == [
        (1, 64, 1),
        (2, 128, 1),
        (8, 512, 1),
    ]
    assert (result["accuracy"], result["outside_window_share"], result["answers"]) == (1, 1, 18)
    assert (result["samples"], result["state_bytes"], result["memory"]) == (2, 1000, "on")
    for record in records:
        assert [place % UNIT for place in record["places"]] == [0, 0, 0]
        assert [place - record["places"][0] for place in record["places"]] == [0, 64, 448]


def test_the_stream_is_read_once_and_never_sees_a_question(task, subject):
    texts = []

    class Logged(Oracle):
        def fork(self):
            texts.append(self.rows[0])
            return super().fork()

    tested, log = subject(Logged)
    wanted = task(samples=1)
    [record] = run_retention(wanted, tested, Journal())
    lengths = sorted({len(text) for text in texts if b"What" not in text})
    assert lengths == record["places"]
    assert not [text for text in texts if text.count(b"What is the pass key") > 1]
    long_reads = sum(columns for name, _, columns in log if name == "read" and columns >= UNIT)
    assert long_reads == record["places"][-1]


def test_who_forgets_is_seen_to(task, subject):
    """A reader of the last 400 bytes loses the keys between the distances of 2 and 8 segments."""

    class Forgetful(Oracle):
        def guess(self, row):
            return super().guess(row[-400:])

    curve = summarize_retention(run_retention(task(keys=1), subject(Forgetful)[0], Journal()))["curve"]
    assert [place["exact"] for place in curve] == [1, 1, 0]
    assert curve[0]["interval"][1] == 1 and curve[2]["interval"][0] == 0


@pytest.mark.parametrize(
    ("reader", "options"),
    [(Ignorant, {}), (Oracle, {"memory": False}), (Oracle, {"with_needle": False})],
    ids=["ignorant", "memory off", "no needle"],
)
def test_controls_find_nothing(task, subject, reader, options):
    assert summarize_retention(run_retention(task(**options), subject(reader)[0], Journal()))["accuracy"] == 0


def test_streams_are_not_run_twice(task, subject, tmp_path):
    path = tmp_path / "retention.jsonl"
    first = run_retention(task(), subject()[0], Journal(path))
    tested, log = subject()
    more = run_retention(task(samples=3), tested, Journal(path))
    assert more[:2] == first
    assert len(path.read_text().splitlines()) == 3
    assert log
    for change in ({"keys": 2}, {"segments": (1, 2)}, {"memory": False}, {"with_needle": False}, {"seed": 1}):
        run_retention(task(samples=1, **change), subject()[0], Journal(path))
    assert len(path.read_text().splitlines()) == 8


def test_a_model_with_full_attention_has_distances_too(task):
    model = base_model()
    wanted = task(segments=(1,), samples=1, keys=1)
    subject = subject_of(model)
    [record] = run_retention(wanted, subject, Journal())
    assert (record["unit"], record["places"]) == (1024, [2048])
    assert summarize_retention([record])["outside_window_share"] == 0
    assert most_tokens(wanted, subject) == 2048


def test_a_random_model_recalls_nothing(task):
    subject: Subject = subject_of(infini_model())
    assert summarize_retention(run_retention(task(), subject, Journal()))["accuracy"] == 0


def test_the_picture(task, subject, tmp_path):
    curve = summarize_retention(run_retention(task(), subject()[0], Journal()))["curve"]
    save_forgetting(curve, tmp_path / "curve.png", "title")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [{"segments": ()}, {"segments": (0,)}, {"keys": 0}, {"samples": 0}])
def test_counts_that_cannot_be(task, options):
    with pytest.raises(ConfigError, match="must be at least 1"):
        task(**options)
