"""A planted key: who knows it is found out, and who does not."""

import pytest

from evaluation.readers import Ignorant, Oracle
from infini_attention.data.recall import NEEDLE, OPENING, QUESTION
from infini_attention.errors import ConfigError, InputError
from infini_attention.evaluation.tasks.planted import plant_and_ask

TOKENS, ASKED = 640, len(QUESTION + "12345")


@pytest.fixture
def planted(tokenizer, filler):
    def planted(reader, tokens=TOKENS, on_piece=lambda done: None, **options):
        steps = plant_and_ask(reader, tokenizer, filler, tokens=tokens, segment_size=64, **options)
        while True:
            try:
                on_piece(next(steps))
            except StopIteration as done:
                return done.value

    return planted


def test_one_that_remembers(planted):
    found = planted(Oracle())
    assert (found["asked"], found["hits"], found["hits_memory_off"]) == (3, 3, 0)  # at first attention still sees it
    assert found["tokens"] == TOKENS - ASKED
    assert found["longest"] == found["tokens"] - len(OPENING + NEEDLE.format(key="12345"))


def test_one_that_does_not(planted):
    found = planted(Ignorant())
    assert (found["asked"], found["hits"], found["hits_memory_off"], found["longest"]) == (3, 0, 0, None)


def test_the_stream_itself_is_never_asked(planted):
    reader = Oracle()
    planted(reader)
    assert len(reader.rows[0]) == TOKENS - ASKED
    assert b"What is the pass key?" not in reader.rows[0]


@pytest.mark.parametrize("start", [0, 5, 63])
def test_pieces_end_where_segments_do(planted, start):
    reader, done = Oracle(), []
    planted(reader, start=start, on_piece=done.append)
    read = [event[2] for event in reader.log if event[0] == "read"]
    assert read[0] == 64 - start
    assert done[-1] == TOKENS - ASKED
    assert done == sorted(done)


def test_what_is_done_in_forks_is_done_aside(planted):
    from contextlib import contextmanager

    inside, seen = [False], []

    class Listening(Oracle):
        def read(self, token_ids):
            seen.append((inside[0], token_ids.shape[1] < 50 and self.rows and b"?" in bytes(token_ids[0].tolist())))
            return super().read(token_ids)

    @contextmanager
    def aside():
        inside[0] = True
        yield
        inside[0] = False

    planted(Listening(), aside=aside)
    assert all(asked == within for within, asked in seen if asked)
    assert {within for within, _ in seen} == {True, False}


def test_the_same_seed_is_the_same_text(planted):
    readers = [Oracle() for _ in range(3)]
    for reader, seed in zip(readers, (1, 1, 2), strict=True):
        planted(reader, seed=seed)
    assert readers[0].rows == readers[1].rows != readers[2].rows


def test_too_few_tokens(planted):
    with pytest.raises(ConfigError, match="at least 3 segments of 64 tokens, 192 in all; got 191"):
        planted(Oracle(), tokens=191)
    with pytest.raises(InputError, match="too few"):
        planted(Oracle(), tokens=192)
