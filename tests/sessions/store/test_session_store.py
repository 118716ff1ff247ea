"""The store: sessions by owner and name, with their histories, shared by threads and processes."""

import threading

import pytest
import torch

from chats import chat_model, chat_tokenizer
from infini_attention.errors import (
    ConflictError,
    InputError,
    QuotaError,
    SnapshotError,
    StoreError,
    UnknownSessionError,
)
from infini_attention.sessions import HistorySettings, Session, SessionStore, StoreLimits, least_recently_used
from infini_attention.sessions.digest import TokenDigest
from streams import assert_equal
from tiny import SEGMENT, book, infini_model, new_session

TEXT = book(1200)


@pytest.fixture(scope="module")
def model():
    return infini_model()


@pytest.fixture
def session(model):
    session = new_session(model)
    session.read(TEXT[:300], chunk_size=40)
    session.mark("chapter")
    session.read(TEXT[300:500], chunk_size=40)
    return session


@pytest.fixture(params=["folder", "elsewhere", "memory"])
def blobs(request, tmp_path):
    return {"folder": None, "elsewhere": str(tmp_path / "blobs"), "memory": f"memory://{tmp_path}"}[request.param]


@pytest.fixture
def store(tmp_path):
    return SessionStore(tmp_path / "store")


class TestGoingOn:
    def test_as_if_never_stored(self, session, model, tmp_path, blobs):
        store = SessionStore(tmp_path / "store", blobs=blobs)
        store.save("a", session)
        store.close()
        loaded = SessionStore(tmp_path / "store").load("a", model, session.tokenizer)
        assert_equal(loaded, session)
        assert (loaded.name, loaded.places, loaded.marks) == (session.name, session.places, {"chapter": 300})
        for each in (loaded, session):
            each.read(TEXT[500:])
        assert_equal(loaded, session)
        for each in (loaded, session):
            each.rewind(to_mark="chapter")
        assert_equal(loaded, session)

    def test_under_every_rule(self, rule, store):
        model = infini_model(rule=rule)
        session = new_session(model)
        session.read(TEXT[:300], chunk_size=40)
        store.save("a", session)
        loaded = store.load("a", model, session.tokenizer)
        for each in (loaded, session):
            each.read(TEXT[300:400])
        assert_equal(loaded, session)

    def test_saved_again_it_goes_on_from_the_newest(self, session, model, store):
        assert store.save("a", session).revision == 1
        session.read(TEXT[500:700])
        session.rewind(to_token=600)
        saved = store.save("a", session)
        assert (saved.revision, saved.place.tokens, store.get("a").revision) == (2, 600, 2)
        assert_equal(store.load("a", model, session.tokenizer), session)

    def test_no_text_is_stored(self, session, model, store):
        store.save("a", session)
        loaded = store.load("a", model, session.tokenizer)
        with pytest.raises(InputError, match="the text around it is not kept"):
            loaded.rewind(to_token=loaded.places[-1] - 1)

    def test_what_is_known_of_the_start(self, model, store):
        session = new_session(model)
        session.mark("start")
        session.read(TEXT[:50])
        store.save("a", session)
        loaded = store.load("a", model, session.tokenizer)
        assert loaded.marks == {"start": 0}
        loaded.rewind(to_mark="start")
        assert loaded.stats.tokens_read == 0
        assert store.verify("a").places[0].tokens == 0
        assert store.longest_prefix(model, [1]) is None

    def test_a_chat_can_take_back_its_first_message(self, store):
        model, tokenizer = chat_model(), chat_tokenizer()
        session = Session(model, tokenizer)
        session.chat("Hi", max_new_tokens=5)
        session.chat("Who?", max_new_tokens=5)
        store.save("a", session)
        for turns in (1, 0):
            loaded = store.load("a", model, tokenizer)
            loaded.rewind(to_turn=turns)
            assert loaded.turns == turns

    def test_with_a_smaller_history(self, session, model, store):
        store.save("a", session)
        loaded = store.load(
            "a", model, session.tokenizer, history=HistorySettings(max_bytes=session.history_bytes // 2)
        )
        assert loaded.history_bytes <= session.history_bytes // 2
        assert loaded.marks == {"chapter": 300}
        assert_equal(loaded, session)

    def test_what_is_loaded_shares_what_was_shared(self, session, model, store):
        session.read_tokens([1])
        session.mark("now")
        session.read_tokens([2])
        session.mark("and now")
        store.save("a", session)
        loaded = store.load("a", model, session.tokenizer)
        *_, before, after = (place.snapshot for place in loaded.position.history.places)
        assert after.window[0] is before.window[0]
        assert after.committed is before.committed
        assert loaded.position.history.latest.nbytes == session.position.history.latest.nbytes

    def test_a_fork_goes_its_own_way(self, session, model, store):
        store.save("a", session)
        assert store.fork("a", "b").revision == 1
        fork = store.load("b", model, session.tokenizer)
        assert_equal(fork, session)
        fork.read(TEXT[500:600])
        store.save("b", fork)
        assert_equal(store.load("a", model, session.tokenizer), session)

    def test_verify(self, session, store):
        saved = store.save("a", session)
        assert store.verify("a") == saved


class TestLookUp:
    def test_what_is_known(self, session, store, model):
        saved = store.save("a", session)
        assert (saved.name, saved.owner, saved.revision) == ("a", "", 1)
        assert saved.place.tokens == session.stats.tokens_read
        assert saved.place.tokens_digest == session.position.digest.hex
        assert (saved.place.model, saved.place.turns) == ("tiny", 0)
        assert [place.marks for place in saved.places if place.marks] == [("chapter",)]
        assert store.get("a") == saved
        assert store.sessions() == [saved]
        assert store.bytes_of() == saved.nbytes > 0

    def test_in_the_order_of_their_use(self, session, model, store):
        for name in "abc":
            store.save(name, session)
        store.load("a", model, session.tokenizer)
        assert [saved.name for saved in store.sessions()] == ["b", "c", "a"]

    def test_the_longest_prefix(self, session, model, store):
        """Among all places of all sessions, but for those of other models and other texts."""
        ids = session.tokenizer(TEXT)["input_ids"]
        store.save("a", session)
        other = new_session(model)
        other.read("X" + TEXT[1:600])
        store.save("b", other)
        short = new_session(model)
        short.read(TEXT[:20])
        store.save("c", short)
        found = {count: store.longest_prefix(model, ids[:count]) for count in (10, 20, 299, 300, 499, 500, len(ids))}
        tokens = {count: place and place.tokens for count, place in found.items()}
        assert (tokens[10], tokens[20], tokens[300], tokens[500], tokens[len(ids)]) == (None, 20, 300, 500, 500)
        assert 20 <= tokens[299] < 300 <= tokens[499] < 500
        assert store.longest_prefix(infini_model(rule="none", seed=1), ids) is None
        for place in found.values():
            if place is not None:
                opened = store.open(place, model, session.tokenizer)
                assert opened.position.digest == TokenDigest().update(ids[: place.tokens])
        opened.read(TEXT[500:])
        session.read(TEXT[500:])
        assert_equal(opened, session)

    def test_a_place_that_was_deleted_meanwhile(self, session, model, store):
        store.save("a", session)
        place = store.longest_prefix(model, session.tokenizer(TEXT)["input_ids"])
        store.delete("a")
        with pytest.raises(UnknownSessionError, match="deleted meanwhile"):
            store.open(place, model, session.tokenizer)


class TestOwners:
    def test_they_do_not_see_each_other(self, session, model, store):
        ids = session.tokenizer(TEXT)["input_ids"]
        store.save("a", session, owner="ann")
        for act in (store.get, store.delete, store.verify, lambda name, owner: store.fork(name, "b", owner=owner)):
            with pytest.raises(UnknownSessionError, match="there is no session 'a'"):
                act("a", owner="bob")
        with pytest.raises(UnknownSessionError):
            store.load("a", model, session.tokenizer, owner="bob")
        assert (store.sessions(owner="bob"), store.bytes_of(owner="bob")) == ([], 0)
        assert store.longest_prefix(model, ids, owner="bob") is None
        place = store.longest_prefix(model, ids, owner="ann")
        with pytest.raises(UnknownSessionError):
            store.open(place, model, session.tokenizer, owner="bob")

    def test_they_share_no_bytes(self, session, store, tmp_path):
        store.save("a", session, owner="ann")
        store.save("a", session, owner="bob")
        assert store.bytes_of(owner="ann") == store.bytes_of(owner="bob") > 0
        assert len(list((tmp_path / "store" / "parts").iterdir())) == 2
        store.delete("a", owner="ann")
        store.verify("a", owner="bob")

    @pytest.mark.parametrize("owner", ["../../etc", "a/b", "'; DROP TABLE sessions; --", "ü\0", " ", "x" * 5000])
    def test_any_text_is_an_owner(self, session, model, store, tmp_path, owner):
        store.save("a", session, owner=owner)
        assert_equal(store.load("a", model, session.tokenizer, owner=owner), session)
        assert {path.name for path in tmp_path.iterdir()} == {"store"}


class TestRefused:
    @pytest.mark.parametrize(
        "name", ["", ".", "..", "../a", "a/b", "/a", "-a", ".a", "a\0", "a\n", "a b", "ä", "x" * 101, "a';--"]
    )
    def test_names(self, session, store, name):
        with pytest.raises(StoreError, match="1 to 100 letters, digits"):
            store.save(name, session)
        store.save("a", session)
        with pytest.raises(StoreError, match="1 to 100 letters, digits"):
            store.fork("a", name)
        with pytest.raises(UnknownSessionError, match="there is no session"):
            store.get(name)

    def test_nothing_read(self, model, store):
        with pytest.raises(StoreError, match="nothing to save"):
            store.save("a", new_session(model))

    def test_another_model(self, session, store):
        store.save("a", session)
        with pytest.raises(SnapshotError, match=r"another model \(tiny\)"):
            store.load("a", infini_model(seed=1), session.tokenizer)

    def test_a_revision_that_someone_else_has_replaced(self, session, store):
        first = store.save("a", session, expect="")
        second = store.save("a", session, expect=first.record)
        for expect in ("", first.record):
            with pytest.raises(ConflictError, match="is at revision 2 now"):
                store.save("a", session, expect=expect)
        assert store.get("a") == second
        store.delete("a")
        with pytest.raises(ConflictError, match="is gone"):
            store.save("a", session, expect=second.record)
        store.save("a", session)  # another one, of the same name and revision as the first
        with pytest.raises(ConflictError, match="is at revision 1 now"):
            store.save("a", session, expect=first.record)

    def test_a_fork_replaces_nothing(self, session, store):
        store.save("a", session)
        store.save("b", session)
        with pytest.raises(ConflictError, match="'b' already"):
            store.fork("a", "b")

    def test_blobs_elsewhere_than_before(self, store, session, tmp_path):
        with pytest.raises(StoreError, match="leave `blobs` out"):
            SessionStore(tmp_path / "store", blobs=str(tmp_path / "other"))

    def test_an_address_that_nothing_opens(self, tmp_path):
        with pytest.raises(StoreError, match="blobs cannot be kept at 'nosuchprotocol://x'"):
            SessionStore(tmp_path / "store", blobs="nosuchprotocol://x")


class TestQuota:
    def test_too_many_bytes(self, session, store, tmp_path):
        size = store.save("a", session).nbytes
        small = SessionStore(tmp_path / "store", limits=StoreLimits(max_bytes=size + 100))
        session.read(TEXT[500:600])
        with pytest.raises(QuotaError, match=r"no room for session 'b': its owner would have [\d,]+ bytes, at most"):
            small.save("b", session)
        assert [saved.name for saved in small.sessions()] == ["a"]
        assert small.bytes_of() == size
        store.sweep()
        assert sum(path.stat().st_size for path in (tmp_path / "store" / "parts").rglob("*") if path.is_file()) == size
        small.save("b", session, owner="another")

    def test_too_many_sessions(self, session, tmp_path):
        store = SessionStore(tmp_path / "store", limits=StoreLimits(max_sessions=2))
        store.save("a", session)
        store.fork("a", "b")
        store.save("a", session)
        with pytest.raises(QuotaError, match="would have 3 sessions, at most 2 are allowed"):
            store.fork("a", "c")

    def test_the_least_recently_used_goes_first(self, session, model, tmp_path):
        limits = StoreLimits(max_sessions=2, evict=least_recently_used)
        store = SessionStore(tmp_path / "store", limits=limits)
        store.save("a", session)
        store.save("b", session)
        store.load("a", model, session.tokenizer)
        store.save("c", session)
        assert [saved.name for saved in store.sessions()] == ["a", "c"]
        store.verify("c")

    def test_nothing_goes_where_it_would_not_help(self, session, tmp_path):
        store = SessionStore(tmp_path / "store", limits=StoreLimits(max_bytes=10, evict=least_recently_used))
        with pytest.raises(QuotaError):
            store.save("a", session)
        store.limits = StoreLimits()
        store.save("a", session)
        store.limits = StoreLimits(max_bytes=10, evict=least_recently_used)
        with pytest.raises(QuotaError):
            store.save("b", session)
        store.verify("a")


class TestTogether:
    def test_threads(self, session, model, store):
        """Every load finds a whole session, whatever the others save, fork and delete meanwhile."""
        store.save("a", session)
        mistakes, done = [], threading.Event()

        def write(number):
            own = session.fork()
            for round_number in range(6):
                own.read_tokens([number, round_number])
                store.save("a", own)
                store.save(f"own-{number}", own)
                store.fork("a", f"fork-{number}-{round_number}")
                store.delete(f"fork-{number}-{round_number}")

        def read():
            while not done.is_set():
                loaded = store.load("a", model, session.tokenizer)
                assert loaded.dropped_tokens == 0
                assert loaded.stats.tokens_read >= 500

        def guarded(work, *args):
            try:
                work(*args)
            except BaseException as error:
                mistakes.append(error)

        readers = [threading.Thread(target=guarded, args=(read,)) for _ in range(2)]
        writers = [threading.Thread(target=guarded, args=(write, number)) for number in range(3)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
        assert mistakes == []
        assert store.get("a").revision == 19
        for saved in store.sessions():
            store.verify(saved.name)
        store.sweep()
        assert {saved.name for saved in store.sessions()} == {"a", "own-0", "own-1", "own-2"}

    def test_every_state_of_a_session_is_in_it(self, session, store, model):
        """What a state has and a store had not would be lost."""
        store.save("a", session)
        loaded = store.load("a", model, session.tokenizer)
        for out, ref in zip(loaded.cache.states, session.cache.states, strict=True):
            assert out.nbytes == ref.nbytes
            assert out.segment_size == SEGMENT
        assert torch.equal(loaded.position.logits, session.position.logits)
