"""What a history keeps: enough to go back cheaply, and never more than it may."""

from array import array
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infini_attention.errors import InputError
from infini_attention.sessions.digest import TokenDigest
from infini_attention.sessions.history import History, HistorySettings
from infini_attention.sessions.passes import Chunk, Text
from infini_attention.sessions.snapshot import Part, Snapshot
from infini_attention.sessions.stats import ReadStats

STATE_BYTES = 4000


def snapshot(tokens, turns=0):
    part = Part({"logits": torch.zeros(STATE_BYTES // 4)})
    return Snapshot(ReadStats(tokens_read=tokens), TokenDigest(), turns, Part({}), part, ())


class Reader:
    """A stream without a model: a place is kept after every pass."""

    def __init__(self, **settings):
        self.history, self.tokens = History.new(HistorySettings(**settings)), 0

    def read(self, count, **options):
        ids = range(self.tokens, self.tokens + count)
        self.history, self.tokens = self.history.read(Chunk(array("i", ids), 0, False)), self.tokens + count
        self.keep(**options)

    def keep(self, **options):
        self.history = self.history.keep(snapshot(self.tokens), **options)

    @property
    def places(self):
        return [place.tokens for place in self.history.places]

    def replayed(self, token):
        """The tokens that a rewind to `token` reads again, which must be the right ones."""
        history, chunks = self.history.back_to(token)
        ids = [i for chunk, count in chunks for i in chunk.token_ids[:count]]
        assert ids == list(range(history.places[-1].tokens, token))
        assert (history.text == Text()) == self.history.settings.keep_text
        return len(ids)


@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=120))
def test_fewer_tokens_are_read_again_than_are_taken_back(counts):
    reader = Reader(text_tokens=None)
    for count in counts:
        reader.read(count)
        for token in range(0, reader.tokens + 1, 7):
            assert reader.replayed(token) <= max(max(counts), reader.tokens - token)


@pytest.mark.parametrize("text_tokens", [0, 100, None])
def test_the_places_grow_with_the_logarithm(text_tokens):
    reader, counts = Reader(text_tokens=text_tokens), {}
    for step in range(1, 4097):
        reader.read(10)
        counts[step] = len(reader.places)
    assert counts[4096] <= 2 * 12 + 4
    assert counts[4096] - counts[64] <= 2 * 6 + 2


@given(
    counts=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=80),
    max_bytes=st.integers(0, 10 * STATE_BYTES),
    text_tokens=st.none() | st.integers(0, 200),
)
def test_it_never_takes_more_than_it_may(counts, max_bytes, text_tokens):
    reader = Reader(max_bytes=max_bytes, text_tokens=text_tokens)
    for count, border in counts:
        reader.read(count, border=border)
        assert reader.history.nbytes <= max_bytes
        assert reader.places == sorted({0, *reader.places})
        for place in reader.places:
            assert reader.replayed(place) == 0


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=80), text_tokens=st.integers(0, 300))
def test_the_last_tokens_are_all_within_reach(counts, text_tokens):
    reader = Reader(text_tokens=text_tokens)
    for count in counts:
        reader.read(count)
    for token in range(max(0, reader.tokens - text_tokens), reader.tokens + 1):
        reader.replayed(token)


def test_beyond_them_only_places_are():
    reader = Reader(text_tokens=20)
    for _ in range(100):
        reader.read(10)
    far = next(before + 1 for before, after in pairwise(reader.places) if after - before > 1)
    with pytest.raises(InputError, match=rf"token {far} cannot be reached.* rewind to {far - 1} or "):
        reader.history.back_to(far)


def test_a_place_shares_its_text_with_the_one_that_goes():
    reader = Reader(text_tokens=None)
    for _ in range(300):
        reader.read(3)
    assert len(reader.places) < 30
    assert all(reader.replayed(token) >= 0 for token in range(900))


class TestPinned:
    def test_borders_stay_while_there_is_room(self):
        reader = Reader()
        borders = [reader.read(10, border=True) or reader.tokens for _ in range(50)]
        assert reader.places == [0, *borders]

    def test_then_the_spaced_places_go_first(self):
        reader = Reader(max_bytes=5 * STATE_BYTES, text_tokens=0)
        for _ in range(3):
            reader.read(10, border=True)
        for _ in range(50):
            reader.read(10)
        assert {0, 10, 20, 30} <= set(reader.places)

    def test_marks_stay_whatever_comes(self):
        reader = Reader(max_bytes=4 * STATE_BYTES, text_tokens=0)
        reader.read(10, mark="a")
        for _ in range(200):
            reader.read(10, border=True)
        assert reader.history.marks == {"a": 10}
        assert reader.replayed(10) == 0

    def test_the_text_makes_room_for_a_mark(self):
        reader = Reader(max_bytes=2 * STATE_BYTES + 600, text_tokens=None)
        reader.read(10, mark="a")
        reader.read(200, mark="b")
        assert reader.history.marks == {"a": 10, "b": 210}
        assert reader.history.nbytes == 2 * STATE_BYTES

    def test_a_mark_without_room_is_refused_and_changes_nothing(self):
        reader = Reader(max_bytes=2 * STATE_BYTES, text_tokens=0)
        reader.read(10, mark="a")
        reader.read(10, mark="b")
        before = reader.history
        reader.history = before.read(Chunk(array("i", [0]), 0, False))
        reader.tokens += 1
        with pytest.raises(InputError, match=r"take 12,000 bytes, expected at most 8,000: take a mark off"):
            reader.keep(mark="c")
        assert before.marks == {"a": 10, "b": 20}

    def test_a_name_moves(self):
        reader = Reader()
        reader.read(10, mark="a")
        reader.read(10, mark="a")
        reader.keep(mark="b")
        assert reader.history.marks == {"a": 20, "b": 20}
        assert reader.history.unmark("a").marks == {"b": 20}

    @pytest.mark.parametrize("name", ["", "a", "A "])
    def test_an_unknown_mark(self, name):
        with pytest.raises(InputError, match=r"there is no mark .*expected one of \(none was set\)"):
            Reader().history.unmark(name)

    def test_turns(self):
        reader = Reader()
        reader.keep(border=True, opens=0)
        reader.read(10, border=True)
        reader.read(5)
        reader.keep(border=True, opens=1)
        assert [reader.history.tokens_before_turn(turn) for turn in (0, 1)] == [0, 15]
        with pytest.raises(InputError, match="the place after 2 messages is not kept; expected one of 0, 1"):
            reader.history.tokens_before_turn(2)


def test_text_takes_a_quarter_at_most():
    reader = Reader(max_bytes=8 * STATE_BYTES, text_tokens=None)
    for _ in range(300):
        reader.read(100)
    text = sum(place.text.nbytes for place in reader.history.places if place.text)
    assert 0 < text <= 2 * STATE_BYTES
    assert 0 < reader.replayed(reader.tokens - 150) <= 150


def test_what_places_share_counts_once():
    reader = Reader()
    reader.read(1)
    first = reader.history.latest
    reader.history = reader.history.read(Chunk(array("i", [1]), 0, False)).keep(
        replace(first, stats=ReadStats(tokens_read=2))
    )
    text = sum(place.text.nbytes for place in reader.history.places if place.text)
    assert reader.history.nbytes == STATE_BYTES + text


@pytest.mark.parametrize("settings", [{"max_bytes": -1}, {"text_tokens": -1}])
def test_settings_that_cannot_be(settings):
    with pytest.raises(InputError, match="must be 0 or more; got -1"):
        HistorySettings(**settings)
