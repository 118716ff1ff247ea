"""Writing a reply: text from tokens, and where it ends."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infini_attention.server.writing import Sampling, Writer
from tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()
END = 256


def written(token_ids, *, ends=(END,), **sampling):
    """The writer after tokens that the logits leave no choice about, and the pieces that it gave away."""
    pieces = []
    writer = Writer(TOKENIZER, Sampling(**{"max_new_tokens": 1000} | sampling), ends, pieces.append)
    for token in token_ids:
        logits = torch.full((257,), -100.0)
        logits[token] = 100.0
        writer.choose(logits)
        if writer.finish:
            break
    return writer, pieces


def ids_of(text):
    return TOKENIZER(text)["input_ids"]


@given(text=st.text(min_size=1, max_size=40), heat=st.sampled_from([0.0, 1.0]))
def test_the_pieces_are_the_text(text, heat):
    text = text.encode(errors="ignore").decode()
    writer, pieces = written([*ids_of(text), END], temperature=heat)
    assert "".join(pieces) == writer.text == text
    assert (writer.finish, writer.ended) == ("stop", True)


@given(tokens=st.lists(st.integers(0, 255), min_size=1, max_size=60))
def test_any_bytes_are_handed_on(tokens):
    writer, pieces = written(tokens, max_new_tokens=len(tokens))
    assert "".join(pieces) == writer.text
    assert (writer.finish, writer.ended, writer.token_ids) == ("length", False, tokens)


@given(
    text=st.text("ab\n", min_size=1, max_size=30),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_text_ends_it_wherever_it_stands(text, stops):
    writer, pieces = written([*ids_of(text), END], stop=tuple(stops))
    found = [text.find(stop) for stop in stops if stop in text]
    # The first one that is whole counts; of several that end with the same character, the one that began first.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    first = min((end, place) for end, place in zip(ends, found, strict=True))[1] if found else len(text)
    assert "".join(pieces) == writer.text == text[:first]
    assert writer.ended == (not found)


def test_a_character_comes_whole():
    _, pieces = written([*ids_of("a🦉é"), END])
    assert pieces == ["a", "🦉", "é"]


def test_a_limit_counts_the_end():
    writer, _ = written([*ids_of("ab"), END], max_new_tokens=3)
    assert (writer.finish, writer.text) == ("stop", "ab")
    writer, _ = written([*ids_of("ab"), END], max_new_tokens=2)
    assert (writer.finish, writer.text) == ("length", "ab")


@pytest.mark.parametrize(("top_p", "expected"), [(0.5, {0}), (0.85, {0, 1}), (1.0, {0, 1, 2})])
def test_top_p(top_p, expected):
    logits = torch.full((257,), -1e9)
    logits[:3] = torch.tensor([0.6, 0.3, 0.1]).log()
    chosen = set()
    for seed in range(60):
        writer = Writer(TOKENIZER, Sampling(1, temperature=1.0, top_p=top_p, seed=seed), ())
        writer.choose(logits)
        chosen |= set(writer.token_ids)
    assert chosen == expected
