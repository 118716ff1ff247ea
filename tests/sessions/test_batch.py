"""Sessions in a batch: each is what it would be alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import assert_close, tensors_of
from infini_attention.sessions import Batch, read_together
from tiny import SEGMENT, infini_model, new_session

LENGTHS = (1, SEGMENT - 1, SEGMENT, 2 * SEGMENT + 3)


@pytest.fixture(scope="module")
def sharp():
    return infini_model().double()


def sessions_of(model, lengths=LENGTHS):
    sessions = [new_session(model) for _ in lengths]
    for i, (session, length) in enumerate(zip(sessions, lengths, strict=True)):
        session.read_tokens([(7 * i + token) % 250 for token in range(length)])
    return sessions


def assert_same(out, ref):
    assert (out.stats, out.position.digest) == (ref.stats, ref.position.digest)
    assert_close(out.position.logits, ref.position.logits, 1e-5)
    for mine, theirs in zip(out.cache.states, ref.cache.states, strict=True):
        for (name, a), b in zip(tensors_of(mine).items(), tensors_of(theirs).values(), strict=True):
            assert_close(a, b, name=name)


def test_row_in_a_batch_is_row_alone(model):
    batched, alone = sessions_of(model), sessions_of(model)
    batch = Batch(model)
    batch.regroup(joining=batched)
    for step in range(SEGMENT + 2):  # every row's segment ends on the way
        tokens = [(step * 11 + row) % 250 for row in range(len(batched))]
        logits = batch.step(tokens)
        for row, session in enumerate(alone):
            session.read_tokens([tokens[row]])
            assert_close(logits[row], session.position.logits, 1e-5)
    batch.regroup(leaving=batched)
    assert batch.sessions == []
    for out, ref in zip(batched, alone, strict=True):
        assert_same(out, ref)


@settings(max_examples=10)
@given(plan=st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=12))
def test_joining_and_leaving_at_any_time(sharp, plan):
    """`plan` says step by step who is in the batch."""
    batched, alone = sessions_of(sharp), sessions_of(sharp)
    batch = Batch(sharp)
    for step, present in enumerate(plan):
        now = [batched.index(session) for session in batch.sessions]
        leaving = [batched[row] for row in now if row not in present]
        batch.regroup(leaving, [batched[row] for row in sorted(present - set(now))])
        rows = [batched.index(session) for session in batch.sessions]
        assert set(rows) == present
        if rows:
            batch.step([step + row for row in rows])
        for row in rows:
            alone[row].read_tokens([step + row])
    batch.regroup(leaving=list(batch.sessions))
    for out, ref in zip(batched, alone, strict=True):
        assert_same(out, ref)


def test_nothing_is_copied_while_nobody_comes_or_goes(sharp, monkeypatch):
    batch = Batch(sharp)
    batch.regroup(joining=sessions_of(sharp))
    copies = []
    monkeypatch.setattr(torch, "cat", lambda *args, **kwargs: copies.append(1))
    batch.regroup()
    assert copies == []


def test_read_together_is_read_alone(model):
    """Texts of several lengths behind several lengths, within a segment and across its end; one has read nothing."""
    texts = [[5, 6, 7], [1], list(range(SEGMENT + 5)), [9] * SEGMENT, [3, 4]]
    batched, alone = ([*sessions_of(model), new_session(model)] for _ in range(2))
    read_together(batched, texts)
    for session, text in zip(alone, texts, strict=True):
        session.read_tokens(text)
    for out, ref in zip(batched, alone, strict=True):
        assert_same(out, ref)
