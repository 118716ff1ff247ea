"""A thousand forks share what they can: bytes, measured."""

import pytest
import torch

from helpers import storage_bytes
from infini_attention.sessions import SessionStore
from infini_attention.sessions.snapshot import unique_bytes
from tiny import SEGMENT, book, infini_model, new_session

FORKS = 1000


def storages(forks):
    """The bytes of all tensors behind some sessions and what they keep, each storage counted once."""
    tensors = []
    for fork in forks:
        for state in fork.cache.states:
            tensors += [state.keys, state.values, *state.committed.tensors(), *state.running.tensors()]
        for place in fork.position.history.places:
            tensors += [tensor for part in place.snapshot.parts for tensor in part.tensors.values()]
        tensors.append(fork.position.logits)
    return storage_bytes(tensors)


def files(folder):
    """All blobs of the store in a folder."""
    return {path for path in (folder / "store" / "parts").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def session():
    session = new_session(infini_model())
    session.read(book(1000), max_tokens=40 * SEGMENT + SEGMENT // 2)
    return session


def test_forks_that_have_read_nothing_more_take_no_bytes(session):
    assert storages([session.fork() for _ in range(FORKS)]) == storages([session])


def test_parked_forks_take_what_is_their_own(session):
    """Each has read two other tokens: the memory that they read, and what was in the window, are held once."""
    base = session.fork()
    base.mark("fork")
    parked = []
    for number in range(FORKS):
        fork = base.fork()
        fork.read_tokens(divmod(number, 256))
        parked.append(fork.snapshot())
    shared, alone = unique_bytes([base.snapshot()]), unique_bytes([parked[0]])
    own = unique_bytes(parked[:2]) - alone
    assert unique_bytes(parked) == alone + (FORKS - 1) * own
    window = base.snapshot().window
    assert all(snapshot.window[: len(window)] == window for snapshot in parked)
    assert all(snapshot.committed is base.snapshot().committed for snapshot in parked)
    running = sum(t.nbytes for state in base.cache.states for t in state.running.tensors())
    two_tokens = sum(t.nbytes for state in base.cache.states for t in (state.keys[:, :2], state.values[:, :2]))
    assert own == running + two_tokens + base.position.logits.nbytes
    print(f"{FORKS} forks: {unique_bytes(parked):,} bytes, {FORKS * alone:,} if nothing were shared; base {shared:,}")
    assert torch.equal(parked[0].logits, parked[0].latest.tensors["logits"])


@pytest.mark.slow
def test_stored_forks(session, tmp_path):
    store = SessionStore(tmp_path / "store")
    store.save("base", session)
    before = store.bytes_of()
    blobs = files(tmp_path)
    for number in range(FORKS):
        store.fork("base", f"fork-{number}")
    assert len(store.sessions()) == FORKS + 1
    assert store.bytes_of() == before
    assert files(tmp_path) == blobs
    loaded = store.load("fork-999", session.model, session.tokenizer)
    assert torch.equal(loaded.position.logits, session.position.logits)

    store.delete("base")
    for number in range(FORKS - 1):
        store.delete(f"fork-{number}")
    assert store.verify("fork-999").nbytes == before
    store.delete("fork-999")
    assert store.bytes_of() == 0
    assert not files(tmp_path)


def test_stored_forks_that_went_on(session, tmp_path):
    store = SessionStore(tmp_path / "store")
    base = session.fork()
    base.mark("fork")
    store.save("base", base)
    blobs = files(tmp_path)
    for number in range(20):
        fork = base.fork()
        fork.read_tokens([number])
        store.save(f"fork-{number}", fork)
        added, blobs = files(tmp_path) - blobs, files(tmp_path)
        assert len(added) == 3  # a manifest, the memory with the logits, one token's keys and values
    assert store.bytes_of() == sum(path.stat().st_size for path in blobs)
