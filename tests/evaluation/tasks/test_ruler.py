"""RULER-style tasks: who sees everything scores 1, who sees nothing 0; strings are looked for in what was written."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

from evaluation.readers import Writer
from infini_attention.data.haystack import Haystack
from infini_attention.data.ruler_text import KINDS
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import ConfigError, InputError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import subject_of
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.ruler import RulerTask, summarize_ruler
from tiny import base_model, book, infini_model

LENGTH = 2700
SEVERAL = ["niah_multivalue", "niah_multiquery", "vt"]


class Reader(Writer):
    """Writes all that it knows of what it is asked for."""

    asked = re.compile(rb"\n(?:What|Question:) [^\n]*?(?:provided text (?:is|are)|they are:|(?:list|words) are:)")

    def answers(self, known, question):
        if b"common words" in question:
            return [word for word, _ in Counter(re.findall(rb"\d+\. (\w+-\w+)", known)).most_common(10)]
        if b"coded text" in question:
            return [word for word, _ in Counter(re.findall(rb"\b[a-z]{6}\b", known.split(b"\n")[-1])).most_common(3)]
        values = [value for key, value in re.findall(rb"magic \w+s for (\S+) is: (\S+)\.", known) if key in question]
        names = re.findall(rb"value (\d+)", question)[:1]
        for name, what in re.findall(rb"VAR (\w+) = (?:VAR )?(\w+)\.", known):
            names += [name] if what in names else []
        return values or names[1:]


class Half(Reader):
    """Names every second one."""

    def answers(self, known, question):
        return super().answers(known, question)[::2]


class Rambling(Reader):
    """In capitals, the last one first, between other words."""

    def answers(self, known, question):
        return [b"and that is " + each.upper() for each in reversed(super().answers(known, question))]


class Mute(Reader):
    def answers(self, known, question):
        return []


@pytest.fixture(scope="module")
def haystacks(tokenizer):
    return {"repeat": Haystack.repeat(tokenizer), "book": Haystack(list(book(50_000).encode()), name="book")}


@pytest.fixture
def task(tokenizer, haystacks):
    def task(*subtasks, **options):
        options = {"haystacks": haystacks, "lengths": (LENGTH,), "samples": 2} | options
        return RulerTask(tokenizer, subtasks=subtasks or tuple(KINDS), **options)

    return task


def scores(records):
    return {record["subtask"]: record["exact"] for record in records}


def test_one_who_sees_everything_scores_1(task, subject):
    records = run(task(), subject(Reader)[0], Journal())
    assert scores(records) == dict.fromkeys(KINDS, 1.0)
    for record in records:
        strings = record["answers"] // 2
        assert (record["haystack_digest"] is None) == (record["haystack"] == "list")
        assert (record["length"], record["sample_hits"], record["state_bytes"]) == (LENGTH, [strings] * 2, 1000)
        assert record["new_tokens"] == KINDS[record["subtask"]].new_tokens
        assert (record["memory"], record["needle"]) == ("on", True)
    assert [record["haystack"] for record in records] == [kind.haystack for kind in KINDS.values()]
    assert sum(record["outside_window"] for record in records) > 20


@pytest.mark.parametrize(
    ("reader", "options"),
    [(Mute, {}), (Reader, {"with_needle": False})],
    ids=["mute", "no needle"],
)
def test_controls_find_nothing(task, subject, reader, options):
    assert scores(run(task(**options), subject(reader)[0], Journal())) == dict.fromkeys(KINDS, 0.0)


def test_with_memory_off_only_the_unfinished_segment_is_known(task, subject):
    tested, log = subject(Reader)
    wanted = task("niah_single_1", "vt", memory=False)
    records = run(wanted, tested, Journal())
    assert all(record["hits"] <= record["answers"] - record["outside_window"] for record in records)
    assert all(record["exact"] < 0.5 for record in records)
    questions = {wanted.sample(cell, index).questions[0][0] for cell in wanted.cells() for index in range(2)}
    assert {where for what, where in (e for e in log if e[0] == "forget")} == questions


@pytest.mark.parametrize("name", ["niah_single_3", "niah_multivalue"])
def test_case_order_and_other_words_do_not_count(task, subject, name):
    [record] = run(task(name), subject(Rambling)[0], Journal())
    assert record["exact"] == 1


def test_the_score_is_the_share_of_the_strings(task, subject):
    assert scores(run(task(*SEVERAL), subject(Half)[0], Journal())) == {
        "niah_multivalue": 0.5,
        "niah_multiquery": 0.5,
        "vt": 0.6,
    }


@pytest.mark.parametrize("reader", [Reader, Mute])
def test_no_more_is_written_than_may_be(task, subject, reader):
    tested, log = subject(reader)
    run(task("niah_single_1", samples=1), tested, Journal())
    written = [entry for entry in log if entry == ("read", 1, 1)]
    # " " and seven digits, or all 30 tokens; the last of them is not read
    assert len(written) in ((7, 8) if reader is Reader else (29, 30))


def test_what_comes_after_the_end_of_the_text_does_not_count(task, subject):
    ending = byte_tokenizer()
    ending.eos_token_id = ord(",")
    [record] = run(replace(task("niah_multivalue"), tokenizer=ending), subject(Reader)[0], Journal())
    assert record["exact"] == 0.25


@pytest.mark.parametrize("piece_tokens", [64, 1000, 1 << 20])
def test_pieces_and_batches_change_nothing(task, subject, piece_tokens):
    results = [
        run(task("niah_single_1", "vt", samples=3), subject(Half)[0], Journal(), **options)
        for options in ({}, {"piece_tokens": piece_tokens})
    ]
    for record in (*results[0], *results[1]):
        record.pop("seconds")
    assert results[0] == results[1]


def test_rows_of_a_batch_are_written_apart(task, tokenizer):
    """Two samples with questions at the same place, of which one reader knows the answer to the second alone."""
    wanted = task("vt", samples=1)
    batch = [wanted.sample({"length": LENGTH, "subtask": "vt"}, index) for index in range(2)]

    class Second(Reader):
        def answers(self, known, question):
            return super().answers(known, question) if batch[1].expected[0].encode() in known else []

    outcome = wanted.ask(Second(rows=None), batch, start=0, piece_size=256)
    assert outcome.hits.tolist() == [[False] * 5, [True] * 5]
    assert outcome.nbytes == 1000


class TestResuming:
    def test_nothing_is_run_twice(self, task, subject, tmp_path):
        path = tmp_path / "ruler.jsonl"
        first = run(task("vt"), subject(Reader)[0], Journal(path))
        both = run(task("niah_single_1", "vt"), subject(Mute)[0], Journal(path))
        assert (both[1], both[0]["exact"]) == (first[0], 0)
        tested, log = subject(Reader)
        assert run(task("niah_single_1", "vt"), tested, Journal(path)) == both
        assert log == []
        assert [json.loads(line) for line in path.read_text().splitlines()] == [*first, both[0]]

    @pytest.mark.parametrize(
        "change", [{"memory": False}, {"seed": 1}, {"samples": 3}, {"with_needle": False}, {"lengths": (2650,)}]
    )
    def test_other_settings_are_other_cells(self, task, subject, change):
        journal = Journal()
        run(task("vt"), subject(Reader)[0], journal)
        run(task("vt", **change), subject(Reader)[0], journal)
        assert len(journal.records) == 2


class TestSummary:
    def test_single_strings_have_wilson_intervals(self, task, subject):
        records = run(task("niah_single_1", "niah_multikey_1"), subject(Reader)[0], Journal())
        result = summarize_ruler(records, "subtask")
        plain = summarize(records, "subtask")
        assert {name: result[name] for name in plain} == plain
        for score in result["scores"]:
            assert (score["length"], score["score"], score["strings"]) == (LENGTH, 1, 1)
            assert score["interval"] == pytest.approx([0.3424, 1], abs=1e-4)

    def test_several_strings_have_standard_errors(self):
        cell = {"length": 4096, "samples": 4, "outside_window": 0, "memory": "on", "state_bytes": 1, "seconds": 1}
        records = [
            cell | {"subtask": "vt", "hits": 10, "answers": 20, "exact": 0.5, "sample_hits": [5, 0, 5, 0]},
            cell | {"subtask": "niah_single_1", "hits": 2, "answers": 4, "exact": 0.5, "sample_hits": [1, 1, 0, 0]},
        ]
        result = summarize_ruler(records, "subtask")
        error = (1 / 3) ** 0.5 / 2  # the shares 1, 0, 1, 0 have the variance 1/3
        assert result["scores"][0]["standard_error"] == pytest.approx(error)
        assert "interval" not in result["scores"][0]
        assert result["scores"][1]["interval"] == pytest.approx([0.15, 0.85], abs=1e-2)
        assert (result["accuracy"], result["interval"]) == (0.5, None)
        assert result["standard_error"] == pytest.approx((error**2 + error**2) ** 0.5 / 2)

    def test_one_sample_has_no_error(self, task, subject):
        result = summarize_ruler(run(task("vt", samples=1), subject(Reader)[0], Journal()), "subtask")
        assert (result["standard_error"], result["scores"][0]["standard_error"]) == (None, None)


@pytest.mark.parametrize(("name", "make"), [("infini", infini_model), ("full", base_model)])
def test_a_model_is_asked_for_what_it_would_write(task, tokenizer, name, make):
    """Strings that its own greedy answer has are found, up to its last token, and one that it lacks is not."""
    model, wanted = make(), task("vt", samples=1)
    model.generation_config.eos_token_id = None  # the tokenizer has none
    sample = wanted.sample({"length": LENGTH, "subtask": "vt"}, 0)
    written = model.generate(sample.token_ids[None], max_new_tokens=64, do_sample=False)[0, -64:]
    text = tokenizer.decode(written)
    sample = replace(sample, expected=(text[:9], text[-9:], "certainly not there"))
    subject = subject_of(model)
    outcome = wanted.ask(subject.open_stream(), [sample], start=0, piece_size=256)
    assert outcome.hits.tolist() == [[True, True, False]]
    assert subject.about["attention"] == name


def test_samples_never_change(task):
    cell = {"length": LENGTH, "subtask": "niah_multiquery"}
    one, two = task().sample(cell, 3), task("niah_multiquery", samples=9, memory=False).sample(cell, 3)
    assert torch.equal(one.token_ids, two.token_ids)
    assert not torch.equal(one.token_ids, task().sample(cell, 4).token_ids)
    assert not torch.equal(one.token_ids, task(seed=1).sample(cell, 3).token_ids)


@pytest.mark.parametrize("options", [{"lengths": ()}, {"lengths": (0,)}, {"samples": 0}])
def test_counts_that_cannot_be(task, options):
    with pytest.raises(ConfigError, match="must be at least 1"):
        task(**options)


def test_names_that_are_none(task, tokenizer, haystacks):
    with pytest.raises(ConfigError, match=r"tasks must be some of niah_single_1, .*, fwe; got 'qa_1'"):
        task("vt", "qa_1")
    with pytest.raises(ConfigError, match="got none"):
        RulerTask(tokenizer, haystacks, (LENGTH,), ())


def test_a_length_that_is_too_small_is_known_before_anything_runs(task):
    with pytest.raises(InputError, match="300 tokens are too few for niah_single_1"):
        task(lengths=(4096, 300))
