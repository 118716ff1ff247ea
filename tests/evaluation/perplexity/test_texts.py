"""A text knows its tokens, and the bytes and words behind each of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infini_attention.errors import InputError
from infini_attention.evaluation.perplexity.texts import Text
from tiny import book, byte_level, byte_tokenizer, pieces_of

BOOK = book(20_000)
BYTES = byte_tokenizer()


@pytest.fixture(scope="module")
def subwords():
    return byte_level()


def read(text, tokenizer=BYTES, **options):
    return Text.from_blocks([text], tokenizer, name="a text", **options)


@given(st.text(st.sampled_from("ab \n\u2003é—"), min_size=2, max_size=40))
def test_bytes_and_words_add_up(content):
    text = read(content)
    assert text.token_ids.tolist() == BYTES(content, add_special_tokens=False)["input_ids"]
    assert int(text.nbytes.sum()) == len(content.encode())
    assert int(text.words.sum()) == len(content.split())


def test_a_word_belongs_to_the_token_it_begins_in():
    text = read("to the  sea\n")
    assert "".join(map(str, text.words.tolist())) == "100100001000"
    assert set(text.nbytes.tolist()) == {1}


def test_tokens_of_many_bytes(subwords):
    text = read(BOOK, subwords)
    assert text.token_ids.tolist() == subwords(BOOK, add_special_tokens=False)["input_ids"]
    assert [int(text.nbytes.sum()), int(text.words.sum())] == [len(BOOK.encode()), len(BOOK.split())]
    assert text.nbytes.max() > 5


@pytest.mark.parametrize("longest", [3, 700])
def test_blocks_change_nothing(subwords, longest):
    whole, cut = read(BOOK, subwords), Text.from_blocks(pieces_of(BOOK, 0, longest), subwords, name="cut")
    assert cut.digest == whole.digest


def test_the_first_tokens(subwords):
    """Cut where they are, in a text that comes in many pieces."""
    whole = read(BOOK, subwords)
    first = Text.from_blocks(pieces_of(BOOK, 0, 700), subwords, name="first", max_tokens=777)
    for name in ("token_ids", "nbytes", "words"):
        assert getattr(first, name).tolist() == getattr(whole, name)[:777].tolist()
    assert first.digest != whole.digest
    assert read(BOOK, subwords, max_tokens=10**6).digest == whole.digest


def test_a_start_token_stands_for_no_text():
    text = read("ab c", byte_tokenizer("<s>"))
    assert text.token_ids.tolist() == [256, *BYTES("ab c")["input_ids"]]
    assert (text.nbytes.tolist(), text.words.tolist()) == ([0, 1, 1, 1, 1], [0, 1, 0, 0, 1])


def test_from_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(BOOK, encoding="utf-8")
    text = Text.from_file(path, BYTES)
    assert (text.name, text.digest) == (str(path), read(BOOK).digest)
    assert Text.from_file(path, BYTES, name="the book", max_tokens=5).name == "the book"


def test_one_token_foretells_nothing(tmp_path):
    with pytest.raises(InputError, match=r"a text: is too short: expected at least 2 tokens.*got 1"):
        read("a")
    assert len(read("a", byte_tokenizer("<s>")).token_ids) == 2
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match=r"empty\.txt: is empty"):
        Text.from_file(tmp_path / "empty.txt", BYTES)
