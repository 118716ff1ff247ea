"""Cells are run once, in batches, and their results are kept."""

import json

import pytest

from evaluation.readers import Ignorant, Knower, Oracle
from infini_attention.data.haystack import Haystack
from infini_attention.data.names import TRAIN_NAMES
from infini_attention.errors import ConfigError, InputError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.keys import FactsTask, KeysTask, summarize_keys
from infini_attention.evaluation.tasks.passkey import PasskeyTask


@pytest.fixture
def task(tokenizer, filler):
    def task(**options):
        defaults = {"haystack": filler, "lengths": (512, 700), "depths": 3, "samples": 2}
        return PasskeyTask(tokenizer, **defaults | options)

    return task


def test_a_perfect_reader(task, subject):
    records = run(task(), subject()[0], Journal())
    assert [(record["length"], record["depth"]) for record in records] == [
        (length, depth) for length in (512, 700) for depth in (0.0, 0.5, 1.0)
    ]
    for record in records:
        assert (record["hits"], record["answers"], record["exact"]) == (2, 2, 1.0)
        assert (record["rule"], record["state_bytes"]) == ("stub", 1000)
        assert record["outside_window"] == (0 if record["depth"] == 1 else 2)
    result = summarize(records, "depth")
    assert (result["accuracy"], result["answers"], result["samples"], result["memory"]) == (1.0, 12, 2, "on")
    assert result["outside_window_share"] == pytest.approx(8 / 12)
    assert result["interval"] == pytest.approx([0.7575, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("reader", "options"),
    [(Ignorant, {}), (Oracle, {"memory": False, "depths": 2}), (Oracle, {"with_needle": False})],
    ids=["ignorant", "memory off", "no needle"],
)
def test_controls_find_nothing(task, subject, reader, options):
    result = summarize(run(task(**options), subject(reader)[0], Journal()), "depth")
    assert (result["accuracy"], result["interval"][0], result["worst_cell"]["exact"]) == (0, 0, 0)


@pytest.mark.parametrize("options", [{"memory": False}, {"with_needle": False}], ids=["memory off", "no needle"])
def test_controls_of_several_keys_find_nothing(tokenizer, filler, subject, options):
    def run_with(**options):
        task = KeysTask(tokenizer, filler, (4096,), counts=(4,), rewritten=1, samples=2, seed=4, **options)
        return run(task, subject()[0], Journal())

    [record], [control] = run_with(), run_with(**options)
    assert (record["hits"], control["hits"], control["answers"]) == (8, 0, 8)
    assert control["outside_window"] == (0 if "with_needle" in options else record["outside_window"])


def test_the_worst_cell(task, subject):
    class Forgetful(Oracle):
        def guess(self, row):
            return super().guess(row[-300:])

    result = summarize(run(task(), subject(Forgetful)[0], Journal()), "depth")
    assert result["worst_cell"] == {"length": 512, "depth": 0.0, "exact": 0.0}
    assert 0 < result["accuracy"] < 1


def test_short_samples_are_read_in_batches(task, subject):
    tested, log = subject()
    run(task(lengths=(512,), samples=3), tested, Journal(), piece_tokens=128)
    assert [entry[1] for entry in log if entry[0] == "read"].count(2) > 1  # of three samples, two at a time
    assert all(rows * columns <= 128 for _, rows, columns in log)


def test_what_comes_before_the_needle_is_read_once(task, subject):
    tested, log = subject()
    wanted = task(lengths=(4096,), depths=11, samples=1)
    run(wanted, tested, Journal())
    tokens = sum(rows * columns for name, rows, columns in log if name == "read")
    behind = sum(4096 - 500 - int(4096 * number / 10) for number in range(11))
    assert 4096 + behind < tokens < 4096 + behind + 11 * 600


def test_batching_changes_no_result(task, subject):
    results = [run(task(), subject()[0], Journal(), piece_tokens=tokens) for tokens in (64, 1024, 1 << 20)]
    for records in results:
        for record in records:
            record.pop("seconds")
    assert results[0] == results[1] == results[2]


class TestResuming:
    def test_nothing_is_run_twice(self, task, subject, tmp_path):
        path = tmp_path / "new" / "passkey.jsonl"
        first = run(task(), subject()[0], Journal(path))
        assert [json.loads(line) for line in path.read_text().splitlines()] == first
        tested, log = subject()
        assert run(task(), tested, Journal(path)) == first
        assert log == []

    def test_what_is_missing_is_run(self, task, subject, tmp_path):
        path = tmp_path / "passkey.jsonl"
        run(task(lengths=(512,)), subject()[0], Journal(path))
        tested, log = subject()
        assert len(run(task(lengths=(512, 700)), tested, Journal(path))) == 6
        assert 700 < sum(entry[1] * entry[2] for entry in log if entry[0] == "read") < 6 * 700
        assert len(path.read_text().splitlines()) == 6

    @pytest.mark.parametrize("change", [{"memory": False}, {"seed": 1}, {"samples": 3}, {"with_needle": False}])
    def test_other_settings_are_other_cells(self, task, subject, change):
        journal = Journal()
        run(task(), subject()[0], journal)
        run(task(**change), subject()[0], journal)
        assert len(journal.records) == 12

    def test_another_model_or_haystack_too(self, task, subject, tokenizer):
        journal = Journal()
        run(task(), subject()[0], journal)
        run(task(), subject(fingerprint="of-another")[0], journal)
        run(task(haystack=Haystack(list(b"other words. "), name="repeat")), subject()[0], journal)
        assert len(journal.records) == 18

    def test_an_interrupt_keeps_finished_cells(self, task, subject, tmp_path):
        path = tmp_path / "passkey.jsonl"

        def stop(done, total, tokens):
            assert total == 12
            if done == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(task(), subject()[0], Journal(path), piece_tokens=64, on_sample=stop)
        assert len(path.read_text().splitlines()) == 2

    def test_a_line_that_was_cut_short_is_run_again(self, task, subject, tmp_path):
        path = tmp_path / "passkey.jsonl"
        first = run(task(), subject()[0], Journal(path))
        path.write_text(path.read_text()[:-30])
        again = run(task(), subject()[0], Journal(path))
        assert len([json.loads(line) for line in path.read_text().splitlines()]) == 6
        assert [record["hits"] for record in again] == [record["hits"] for record in first]

    @pytest.mark.parametrize("content", ["hello", "hello\n", "[1]\n", '{"a": 1}\nhello'])
    def test_a_file_of_something_else_is_left_alone(self, tmp_path, content):
        path = tmp_path / "passkey.jsonl"
        path.write_text(content)
        with pytest.raises(InputError, match="is no file of results"):
            Journal(path)
        assert path.read_text() == content


class TestKeys:
    def test_cells(self, tokenizer, filler, subject):
        task = KeysTask(tokenizer, filler, (4096,), counts=(1, 8, 4), questions=5, rewritten=2, samples=2)
        records = run(task, subject()[0], Journal())
        assert [(r["keys"], r["questions"], r["rewritten"], r["answers"]) for r in records] == [
            (1, 1, 1, 2),
            (4, 4, 2, 8),
            (8, 5, 2, 10),
        ]
        assert all(record["exact"] == 1 for record in records)

    def test_capacity_is_what_is_held_where_that_is_most(self):
        shares = {(1024, 1): 1.0, (1024, 4): 0.75, (1024, 16): 0.125, (2048, 1): 0.5}
        records = [
            {"length": length, "keys": keys, "exact": share, "hits": int(16 * share), "answers": 16, "samples": 1}
            | {"outside_window": 16, "memory": "on", "state_bytes": 4000, "seconds": 0.0}
            for (length, keys), share in shares.items()
        ]
        assert summarize_keys(records, "keys")["capacity"] == [
            {"length": 1024, "of": 4, "keys": 3.0, "keys_per_kilobyte": 0.75},
            {"length": 2048, "of": 1, "keys": 0.5, "keys_per_kilobyte": 0.125},
        ]

    def test_no_name_is_one_of_training(self, tokenizer, filler):
        task = KeysTask(tokenizer, filler, (9216,), counts=(64,), questions=64, samples=1)
        assert len(set(task.sample({"length": 9216, "keys": 64}, 0).names) - set(TRAIN_NAMES)) == 64

    @pytest.mark.parametrize("options", [{"counts": ()}, {"counts": (0,)}, {"questions": 0}, {"lengths": ()}])
    def test_counts_that_cannot_be(self, tokenizer, filler, options):
        with pytest.raises(ConfigError, match="must be at least 1"):
            KeysTask(tokenizer, filler, **{"lengths": (4096,)} | options)


class TestFacts:
    @pytest.mark.parametrize(("options", "exact"), [({}, 1), ({"memory": False}, 0), ({"with_needle": False}, 0)])
    def test_who_sees_everything_answers_all_and_the_controls_none(self, tokenizer, filler, subject, options, exact):
        task = FactsTask(tokenizer, filler, (4096,), counts=(1, 6), samples=2, **options)
        records = run(task, subject(Knower)[0], Journal())
        found = [(record["facts"], record["questions"], record["answers"], record["exact"]) for record in records]
        assert found == [(1, 1, 2, exact), (6, 6, 12, exact)]

    def test_the_control_asks_the_same_and_states_nothing(self, tokenizer, filler):
        cell = {"length": 4096, "facts": 4}
        one, two = (
            FactsTask(tokenizer, filler, (4096,), counts=(4,), with_needle=needle).sample(cell, 0)
            for needle in (True, False)
        )
        asked, same = (
            [sample.token_ids[start:stop].tolist() for start, stop in sample.questions + sample.answers]
            for sample in (one, two)
        )
        assert asked == same
        assert len(one.needles) == 4 and two.needles == () and two.sources == (None,) * 4
        assert len(one.token_ids) == len(two.token_ids) == 4096

    def test_no_name_is_one_of_training(self, tokenizer, filler):
        task = FactsTask(tokenizer, filler, (9216,), counts=(64,), questions=64, samples=1)
        assert not set(task.sample({"length": 9216, "facts": 64}, 0).names) & set(TRAIN_NAMES)

    def test_they_are_stated_once(self, tokenizer, filler):
        with pytest.raises(ConfigError, match="rewritten must be 0; got 1"):
            FactsTask(tokenizer, filler, (4096,), counts=(4,), rewritten=1)


def test_samples_never_change(task):
    """A cell's samples depend on nothing but what its key says."""
    cell = {"length": 512, "depth": 0.5}
    one, two = task().sample(cell, 3), task(depths=5, samples=9, memory=False).sample(cell, 3)
    assert one.token_ids.equal(two.token_ids)
    assert not one.token_ids.equal(task().sample(cell, 4).token_ids)
    assert not one.token_ids.equal(task(seed=1).sample(cell, 3).token_ids)


def test_the_control_without_a_needle_asks_for_the_same_key(task):
    cell = {"length": 512, "depth": 0.5}
    one, none = task().sample(cell, 3), task(with_needle=False).sample(cell, 3)
    assert one.answers == none.answers
    assert one.token_ids[-5:].equal(none.token_ids[-5:])


@pytest.mark.parametrize("options", [{"lengths": ()}, {"lengths": (0,)}, {"depths": 0}, {"samples": 0}])
def test_counts_that_cannot_be(task, options):
    with pytest.raises(ConfigError, match="must be at least 1"):
        task(**options)


def test_a_length_that_is_too_small_is_known_before_anything_runs(task):
    with pytest.raises(InputError, match="100 tokens are too few"):
        task(lengths=(4096, 100))
