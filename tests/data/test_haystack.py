"""Filler of any length."""

import random

import pytest
import torch

from infini_attention.data.haystack import SENTENCES, Haystack
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import InputError
from tiny import BOOK, byte_level

TOKENIZER = byte_tokenizer()


@pytest.mark.parametrize("count", [0, 1, 90, 91, 100_000])
def test_repeat(count):
    cut = Haystack.repeat(TOKENIZER).cut(count, random.Random(0))
    assert (cut.dtype, cut.shape) == (torch.int64, (count,))
    assert bytes(cut.tolist()) == (SENTENCES.encode() * (count // 90 + 1))[:count]


def test_repeat_has_the_tokens_of_running_text():
    tokenizer = byte_level()
    ids = Haystack.repeat(tokenizer).cut(500, random.Random(0)).tolist()
    running = tokenizer(SENTENCES * 40)["input_ids"]
    assert ids == running[: len(ids)]


def test_a_cut_goes_round_from_a_random_place():
    stack = Haystack(range(7))
    starts = set()
    for seed in range(100):
        cut = stack.cut(150_000, random.Random(seed)).tolist()
        starts.add(cut[0])
        assert cut[:20] == [(cut[0] + n) % 7 for n in range(20)]
        assert cut[-20:] == [(cut[0] + n) % 7 for n in range(150_000 - 20, 150_000)]
    assert starts == set(range(7))


def test_a_book_is_its_text(tmp_path):
    (tmp_path / "more.txt").write_text("one more text")
    stack = Haystack.book(TOKENIZER, [BOOK, tmp_path / "more.txt"])
    whole = BOOK.read_bytes() + b"one more text"
    assert (stack.name, stack.period) == ("book", len(whole))
    for seed in range(5):
        cut = bytes(stack.cut(3000, random.Random(seed)).tolist())
        assert cut in whole + whole[:3000]


def test_names_do_not_tell_haystacks_apart_but_digests_do():
    assert Haystack([1, 2]).digest == Haystack(torch.tensor([1, 2])).digest != Haystack([1, 3]).digest


@pytest.mark.parametrize("ids", [[], [[1]]])
def test_what_is_no_haystack(ids):
    with pytest.raises(InputError, match="at least one token"):
        Haystack(ids)


def test_no_book(tmp_path):
    with pytest.raises(InputError, match="at least one token"):
        Haystack.book(TOKENIZER, [])
    with pytest.raises(InputError, match="no such file"):
        Haystack.book(TOKENIZER, [tmp_path / "missing.txt"])
