"""The demonstration: what it hides, what it asks, and what it says about it."""

from dataclasses import replace

import pytest
import torch

from evaluation.readers import Ignorant, Oracle
from infini_attention.data.haystack import Haystack
from infini_attention.data.novel import book_path
from infini_attention.data.recall import passkey
from infini_attention.data.seeds import evaluation_rng, training_rng
from infini_attention.evaluation.demo import HiddenKey, as_text, figures, hide_key, measure_map, read_and_ask
from infini_attention.evaluation.report.demo_page import excerpt, verdict
from tiny import infini_model

TOKENS = 40_000  # read in twenty pieces


@pytest.fixture(scope="module")
def novel(tokenizer):
    return Haystack.book(tokenizer, [book_path()])


@pytest.fixture(scope="module")
def model():
    return infini_model()


@pytest.fixture(scope="module")
def hidden(tokenizer, novel):
    return hide_key(tokenizer, novel, TOKENS, seed=3)


@pytest.fixture
def told(tokenizer, model, subject):
    """`told(hidden, Reader)`: the figures of a reader that is no model, with the sizes of one."""

    def told(hidden, reader=Oracle):
        reading = replace(read_and_ask(subject(reader)[0], hidden.sample), seconds=2.0)
        return figures(model, tokenizer, hidden, reading, [])

    return told


def near(tokenizer, novel):
    """A key right before the question, in the same segment."""
    sample = passkey(tokenizer, 707, evaluation_rng(0), novel, depth=1.0)
    return HiddenKey(sample, as_text(tokenizer, sample.token_ids[-5:]), 1.0)


def test_the_key_is_where_it_is_said_to_be(hidden):
    text, [(start, stop)] = bytes(hidden.sample.token_ids.tolist()), hidden.sample.needles
    assert len(text) == TOKENS
    assert text[start:stop].decode() == f" The pass key is {hidden.key}. Remember it. {hidden.key} is the pass key."
    assert text.endswith(f" What is the pass key? The pass key is {hidden.key}".encode())
    assert start / TOKENS == pytest.approx(hidden.depth, abs=0.01)


def test_all_of_it_is_drawn_from_a_seed_of_evaluation(tokenizer, novel, hidden):
    for maker, same in ((evaluation_rng, True), (training_rng, False)):
        rng = maker(3, "demo", "book", TOKENS)
        depth = rng.random()
        sample = passkey(tokenizer, TOKENS, rng, novel, depth=depth)
        assert (depth == hidden.depth, torch.equal(sample.token_ids, hidden.sample.token_ids)) == (same, same)
    assert hide_key(tokenizer, novel, TOKENS, seed=4).key != hidden.key


def test_it_is_read_once_and_asked_twice(subject, hidden):
    tested, log = subject()
    steps = []
    reading = read_and_ask(tested, hidden.sample, on_piece=lambda *step: steps.append(step))
    [(question, start)] = hidden.sample.questions
    assert bytes(reading.written.tolist()).decode() == hidden.key
    assert bytes(reading.written_memory_off.tolist()).decode() != hidden.key
    assert [entry for entry in log if entry[0] == "forget"] == [("forget", question)]
    assert sum(entry[2] for entry in log if entry[0] == "read") == question + 2 * (start - question + 4)
    assert [done for done, _, _ in steps] == [*range(2048, question, 2048), question]
    assert reading.tokens == question
    assert (reading.seconds, reading.nbytes) == steps[-1][1:] == (steps[-1][1], 1000)


def test_figures_of_one_who_remembers(told, hidden, model):
    result = told(hidden)
    [(needle, end)], [(question, _)] = hidden.sample.needles, hidden.sample.questions
    assert (result["tokens"], result["needle_token"], result["tokens_to_question"]) == (TOKENS, needle, question - end)
    assert (result["answer"], result["recalled"], result["recalled_memory_off"]) == (hidden.key, True, False)
    assert result["answer_memory_off"] != hidden.key
    assert (result["seconds"], result["tokens_per_second"]) == (2.0, question / 2)
    assert result["full_kv_bytes"] == TOKENS * 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, size, float32
    assert result["grid"] == [{"length": TOKENS, "depth": hidden.depth, "exact": 1.0, "outside_window": 1}]
    assert verdict(result) == "The model recalled the key; with its memory switched off it did not."


def test_one_who_does_not(told, hidden):
    result = told(hidden, Ignorant)
    assert (result["answer"], result["recalled"], result["grid"][0]["exact"]) == ("77777", False, 0.0)
    assert verdict(result) == "The model did not recall the key."


def test_one_whose_memory_is_not_needed(told, hidden, tokenizer, novel):
    class Cheat(Oracle):
        def forget(self):
            pass

    result = told(hidden, Cheat)
    assert (result["recalled"], result["recalled_memory_off"]) == (True, True)
    assert verdict(result).endswith("as well: this does not show a memory.")
    assert "still sees it: this does not show" in verdict(result | {"outside_window": False})
    assert [told(each)["outside_window"] for each in (hidden, near(tokenizer, novel))] == [True, False]


def test_the_map_is_small_and_below_the_text(tokenizer, filler, subject):
    cells = measure_map(tokenizer, filler, subject()[0], below=16384, seed=0)
    assert [(cell["length"], cell["depth"]) for cell in cells] == [(4096, n / 4) for n in range(5)]
    assert [cell["exact"] for cell in cells] == [1.0] * 5
    assert [cell["outside_window"] for cell in cells] == [1, 1, 1, 1, 0]
    assert measure_map(tokenizer, filler, subject(Ignorant)[0], below=4097, seed=0)[0]["exact"] == 0
    assert measure_map(tokenizer, filler, subject()[0], below=4096, seed=0) == []


def test_the_million_has_three_more_lengths(tokenizer, filler, subject, monkeypatch):
    drawn = []
    monkeypatch.setattr("infini_attention.evaluation.demo.run", lambda task, *args, **options: drawn.append(task) or [])
    measure_map(tokenizer, filler, subject()[0], below=1 << 20, seed=7)
    assert (drawn[0].lengths, drawn[0].depths, drawn[0].samples) == ((4096, 16384, 65536), 5, 1)
    assert (drawn[0].seed, drawn[0].memory, drawn[0].with_needle) == (7, True, True)


def test_an_excerpt_of_whole_words(tokenizer, hidden):
    before, needle, after = excerpt(tokenizer, hidden.sample)
    assert needle == f"The pass key is {hidden.key}. Remember it. {hidden.key} is the pass key."
    text = " ".join(bytes(hidden.sample.token_ids.tolist()).decode(errors="replace").split())
    assert text.count(f" {before}") == text.count(f"{after} ") == 1
    assert f"{before}{needle}{after}".replace(" ", "") in text.replace(" ", "")
    assert min(len(before), len(after)) > 100


def test_the_words_after_the_needle_end_before_the_question(tokenizer, novel):
    assert excerpt(tokenizer, near(tokenizer, novel).sample)[2] == ""


def test_what_a_model_makes_up_can_be_shown(tokenizer):
    assert as_text(tokenizer, torch.tensor(list(b" 12\x1b[0m\x00\n3\xff"))) == "12\N{REPLACEMENT CHARACTER}[0m" + (
        "\N{REPLACEMENT CHARACTER} 3\N{REPLACEMENT CHARACTER}"
    )
