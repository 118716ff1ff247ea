"""Summaries: notes from forks of one stream, notes of the notes, and figures beside those of the baselines."""

import json
import random
import re
import sys
from dataclasses import replace

import pytest

from chats import chat_model, chat_tokenizer
from evaluation.readers import Writer
from infini_attention.data.pairs import Columns, Pair, dataset_pairs, file_pairs
from infini_attention.errors import ConfigError, InputError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.stream import subject_of
from infini_attention.evaluation.tasks.rouge import KINDS, MEAN, rouge_scorer
from infini_attention.evaluation.tasks.summaries import METHODS, random_sentences, run_summaries, summarize_summaries
from infini_attention.evaluation.tasks.summarizing import Summarizer
from tiny import base_model, book, infini_model

SECTION = 384
# Words in capitals are what matters; each stands in a section of its own.
TEXT = "".join(f"{'so it went on and on. ' * 16}{word}. " for word in ("ALPHA", "BETA", "GAMMA", "DELTA", "OMEGA"))


class Reader(Writer):
    """Notes every word in capitals that it knows of."""

    asked = re.compile(rb"\n\nQuestion: Summarize the (?:whole )?text above[^\n]*\nAnswer:")

    def answers(self, known, question):
        return [b" ".join(dict.fromkeys(re.findall(rb"\b[A-Z]{2,}\b", known))) + b"\n"]


class Window(Reader):
    """Knows the last section alone."""

    def split(self, row):
        known, question, written = super().split(row)
        return known[-SECTION:], question, written


@pytest.fixture
def summarizer(tokenizer, subject):
    def summarizer(reader=Reader, **options):
        tested, log = subject(reader)
        return Summarizer(tested, tokenizer, **{"section_tokens": SECTION, "new_tokens": 40} | options), log

    return summarizer


class TestWriting:
    def test_notes_of_notes(self, summarizer):
        """What each section says is in the summary, though no note sees more than its section."""
        writer, log = summarizer(Window)
        summary = writer.summarize(writer.encode(TEXT))
        assert summary.text == "ALPHA BETA GAMMA DELTA OMEGA"
        assert (summary.tokens, summary.levels, summary.notes) == (len(TEXT), 2, 6)
        assert summary.nbytes == 2000  # a stream and a fork, however long the text
        long_reads = sum(columns for name, _, columns in log if name == "read" and columns > 1)
        assert long_reads < len(TEXT) + 6 * 80 + 400  # the text once, six questions, and the notes

    def test_a_short_text_is_one_section(self, summarizer):
        writer, _ = summarizer()
        summary = writer.summarize(writer.encode("ONE and TWO."))
        assert (summary.text, summary.levels, summary.notes) == ("ONE TWO", 1, 1)

    @pytest.mark.parametrize("tokens", [1, 200, 384, 385, 700, 2000, 10_001])
    def test_places(self, summarizer, tokens):
        """Behind each section, where question and note still fit into its last segment; the last at the end."""
        writer, _ = summarizer()
        places = writer.places(tokens)
        assert places[-1] == tokens
        assert all(place % SECTION == SECTION - writer.room for place in places[:-1])
        assert len(places) == max(1, -(-tokens // SECTION))

    def test_with_the_memory_off_only_the_window_is_known(self, summarizer):
        writer, log = summarizer(memory=False)
        text = writer.summarize(writer.encode(TEXT)).text
        assert not re.search("[A-Z]", text)  # no word stands within 64 tokens before a note
        assert [where for what, where in (e for e in log if e[0] == "forget")][:2] == writer.places(len(TEXT))[:2]

    @pytest.mark.parametrize("make", [infini_model, base_model])
    def test_models_write_some_summary(self, tokenizer, make):
        writer = Summarizer(subject_of(make()), tokenizer, 256, 12)
        summary = writer.summarize(writer.encode(book(1200)))
        assert (summary.tokens, summary.notes) == (1200, 6)

    def test_a_chat_template(self):
        writer = Summarizer(subject_of(chat_model()), chat_tokenizer(), 512, 20)
        assert writer.summarize(writer.encode(book(900))).levels == 2

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"section_tokens": 400}, "whole segments of 64 tokens; got 400"),
            ({"section_tokens": 128}, "a section of 128 tokens is too short: the question and a note take"),
        ],
    )
    def test_sections_that_cannot_be(self, summarizer, options, words):
        with pytest.raises(ConfigError, match=words):
            summarizer(**options)


class TestFigures:
    PAIRS = (Pair(TEXT, "ALPHA BETA GAMMA DELTA OMEGA"), Pair("ONE and TWO. Three.", "nothing of this sort"))

    def test_an_oracle_and_its_baselines(self, summarizer):
        writer, _ = summarizer(Window)
        records = run_summaries(self.PAIRS, writer, Journal())
        assert records[0]["rouge"]["model"] == pytest.approx(
            {"rouge1": 1, "rouge2": 1, "rougeL": 1, "geometric_mean": 1}
        )
        result = summarize_summaries(records, writer)
        assert (result["accuracy"], result["samples"], result["memory"]) == (pytest.approx(0.5), 2, "on")
        assert result["worst_cell"]["document"] == 1
        assert result["rouge"]["model"]["geometric_mean"] == pytest.approx(0.5)
        assert result["rouge"]["lead"]["rouge1"] < 0.2
        assert result["interval"] == pytest.approx([0.5 - 0.98, 0.5 + 0.98], abs=0.01)
        assert result["outside_window_share"] > 0.8

    def test_what_no_note_was_written_in_sight_of(self, summarizer):
        """By hand: of 700 tokens, with notes at 264 - behind 256, a segment's border - and at 700, behind 640."""
        writer, _ = summarizer(new_tokens=49)
        assert (writer.room, writer.places(700)) == (120, [264, 700])
        record = {"length": 700, "memory": "on", "document": 0, "state_bytes": 1, "seconds": 1.0}
        record["rouge"] = dict.fromkeys(METHODS, dict.fromkeys((*KINDS, MEAN), 0.5))
        for overlap, unseen in ((0, 700 - 8 - 60), (64, 700 - 72 - 124)):
            seeing = replace(writer, subject=replace(writer.subject, overlap=overlap))
            assert summarize_summaries([record], seeing)["outside_window_share"] == pytest.approx(unseen / 700)

    def test_documents_are_not_run_twice(self, summarizer, tmp_path):
        path = tmp_path / "summary.jsonl"
        first = run_summaries(self.PAIRS[:1], summarizer()[0], Journal(path))
        writer, _ = summarizer()
        both = run_summaries(self.PAIRS, writer, Journal(path))
        assert both[0] == first[0]
        assert len(path.read_text().splitlines()) == 2
        for options in ({"memory": False}, {"new_tokens": 30}, {"section_tokens": 448}):
            run_summaries(self.PAIRS[:1], summarizer(**options)[0], Journal(path))
        assert len(path.read_text().splitlines()) == 5

    def test_random_sentences(self, tokenizer):
        text = 'One is here. "Two is there!" Three? Four is a rather long one, which never fits anywhere. Five.'
        drawn = {random_sentences(text, tokenizer, 30, random.Random(seed)) for seed in range(20)}
        assert drawn == {'"Two is there!" Three? Five.', 'One is here. "Two is there!"', "One is here. Three? Five."}
        for each in drawn:
            assert len(each) <= 30
            assert "Four" not in each
            parts = re.findall("One|Two|Three|Five", each)
            assert parts == sorted(parts, key=["One", "Two", "Three", "Five"].index)

    def test_rouge_by_hand(self):
        """4 of 5 words, 2 of 4 pairs, and a common subsequence of 4, on both sides; plurals are one word."""
        scores = rouge_scorer()("the cats sat on mats", "the cat sat under mat")
        assert scores == pytest.approx(
            {"rouge1": 0.8, "rouge2": 0.5, "rougeL": 0.8, "geometric_mean": (0.8 * 0.5 * 0.8) ** (1 / 3)}
        )

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
        with pytest.raises(ConfigError, match=r"pip install 'infini-attention\[eval\]'"):
            rouge_scorer()


class TestPairs:
    @pytest.fixture
    def path(self, tmp_path):
        def path(*rows):
            (tmp_path / "pairs.jsonl").write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
            return tmp_path / "pairs.jsonl"

        return path

    def test_columns_and_limits(self, path):
        rows = [{"chapter": f"text {n}", "summary_text": f"sum {n}", "more": 1} for n in range(3)]
        pairs = file_pairs(path(*rows), Columns("chapter", "summary_text"), 2)
        assert pairs == [Pair("text 0", "sum 0"), Pair("text 1", "sum 1")]

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            (["{"], "line 1 is no JSON"),
            ([{"document": "a", "reference": "b"}, "[1]"], "line 2 is no JSON object but list"),
            ([{"text": "a"}], "line 1: column 'document' must hold text; there are text"),
            ([{"document": "a", "reference": 3}], "column 'reference' must hold text"),
            ([{"document": " ", "reference": "b"}], "column 'document' must hold text"),
            (["\n"], "holds no document"),
        ],
    )
    def test_files_that_are_none(self, path, rows, words):
        with pytest.raises(InputError, match=words):
            file_pairs(path(*rows), Columns())

    @pytest.mark.slow
    def test_data_sets(self, path, monkeypatch, tmp_path):
        """A folder of files is one too, so that nothing is downloaded."""
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        folder = path({"document": "a", "reference": "b"}, {"document": "c", "reference": "d"}).parent
        assert dataset_pairs(str(folder), "train", Columns(), 1) == [Pair("a", "b")]
        with pytest.raises(InputError, match="row 0: column 'x' must hold text"):
            dataset_pairs(str(folder), "train", Columns("x"))
