"""Going back: a session that went wrong, was rewound and went on right is one that never went wrong."""

import pytest
import torch

from chats import chat_model, chat_tokenizer, says
from helpers import FLOAT64, assert_all_close, assert_close, tensors_of
from infini_attention.errors import CacheError, InputError
from infini_attention.models.scoring import logits_of
from infini_attention.sessions import HistorySettings, Session
from streams import assert_equal, greedy
from tiny import SEGMENT, book, byte_tokenizer, new_session

GOOD, WRONG, RIGHT = book(2000)[:150], "Quite another tale! " * 6, book(2000)[150:300]


def settled(model, **settings):
    return Session(model, byte_tokenizer(), history=HistorySettings(**settings))


@pytest.fixture
def never_wrong(model):
    session = new_session(model)
    session.read(GOOD, chunk_size=20)
    session.read(RIGHT, chunk_size=20)
    return session


@pytest.fixture
def passes(model):
    """Tokens that go through the model, pass by pass."""
    seen = []
    hook = model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
    yield seen
    hook.remove()


class TestEqualToNeverWrong:
    @pytest.mark.parametrize("text_tokens", [0, 8192])
    def test_to_a_mark(self, session, never_wrong, text_tokens):
        session.read(GOOD, chunk_size=20)
        session.mark("good")
        session.read(WRONG, chunk_size=20)
        assert session.rewind(to_mark="good") == 0
        session.read(RIGHT, chunk_size=20)
        assert_equal(session, never_wrong)

    def test_to_the_end_of_what_was_read(self, session, never_wrong, passes):
        session.read(GOOD, chunk_size=20)
        good = session.stats.tokens_read
        session.read(WRONG, chunk_size=20)
        passes.clear()
        read_again = session.rewind(to_token=good)
        assert sum(passes) == read_again < session.stats.tokens_read
        session.read(RIGHT, chunk_size=20)
        assert_equal(session, never_wrong)

    def test_several_times(self, session, never_wrong):
        session.read(GOOD, chunk_size=20)
        good = session.stats.tokens_read
        for _ in range(3):
            session.generate(WRONG, max_new_tokens=30)
            session.read(WRONG, chunk_size=7)
            session.rewind(to_token=good)
        session.read(RIGHT, chunk_size=20)
        assert_equal(session, never_wrong)

    def test_what_it_writes_then(self, session, never_wrong):
        session.read(GOOD, chunk_size=20)
        session.mark("good")
        session.generate(WRONG, max_new_tokens=5)
        session.rewind(to_mark="good")
        session.read(RIGHT, chunk_size=20)
        (out, out_logits), (ref, ref_logits) = greedy(session, 20), greedy(never_wrong, 20)
        assert out == ref
        assert torch.equal(out_logits, ref_logits)

    def test_in_the_middle_of_a_pass(self, session, model):
        session.read(GOOD, chunk_size=50)
        session.rewind(to_token=77)
        ref = new_session(model)
        ref.read(GOOD, chunk_size=50, max_tokens=77)
        for out_state, ref_state in zip(session.cache.states, ref.cache.states, strict=True):
            assert_all_close(tensors_of(out_state), tensors_of(ref_state), FLOAT64)
        assert session.position.digest == ref.position.digest
        assert session.stats.nats == pytest.approx(ref.stats.nats, rel=1e-6)
        assert vars(session.stats) | {"nats": 0} == vars(ref.stats) | {"nats": 0}
        session.read(RIGHT)
        ref.read(RIGHT)
        assert_close(session.position.logits, ref.position.logits, 1e-5)

    def test_to_the_start(self, session, never_wrong):
        session.read(WRONG)
        assert session.rewind(to_token=0) == 0
        assert (session.stats.tokens_read, session.position.logits, session.state_bytes) == (0, None, 0)
        session.read(GOOD, chunk_size=20)
        session.read(RIGHT, chunk_size=20)
        assert_equal(session, never_wrong)

    def test_every_token_within_reach(self, model, passes):
        session = new_session(model)
        session.read(GOOD, chunk_size=13)
        count = session.stats.tokens_read
        for token in range(0, count, 11):
            back = session.fork()
            passes.clear()
            assert back.rewind(to_token=token) == sum(passes) <= max(13 + SEGMENT, count - token)
            assert (back.stats.tokens_read, back.dropped_tokens) == (token, 0)
        assert session.stats.tokens_read == count


class TestTimeline:
    def test_a_fork_keeps_what_came_after(self, session):
        session.read(GOOD)
        session.mark("good")
        session.read(WRONG)
        session.mark("wrong")
        fork = session.fork()
        session.rewind(to_mark="good")
        assert session.marks == {"good": 150}
        assert fork.marks == {"good": 150, "wrong": 270}
        assert fork.stats.tokens_read == 270
        fork.rewind(to_mark="good")
        assert_equal(fork, session)

    def test_to_where_it_stands_is_nothing(self, session):
        session.read(GOOD)
        here = session.position
        assert session.rewind(to_token=150) == 0
        assert session.position is here

    def test_a_mark_can_be_taken_off_and_moves(self, session):
        session.mark("a")
        session.read(GOOD)
        session.mark("b")
        session.mark("a")
        session.unmark("b")
        assert session.marks == {"a": 150}

    def test_the_history_is_bounded_and_the_state_the_same(self, model):
        text, free = book(3000), settled(model, text_tokens=0)
        free.read(text, chunk_size=SEGMENT)
        bound = settled(model, max_bytes=free.history_bytes // 2, text_tokens=0)
        bound.read(text, chunk_size=SEGMENT)
        assert bound.history_bytes <= free.history_bytes // 2
        assert len(bound.places) < len(free.places) < 25
        assert_equal(bound, free)
        none = settled(model, max_bytes=0)
        none.read(text, chunk_size=SEGMENT)
        assert (none.places, none.history_bytes) == ((0,), 0)
        assert_equal(none, free)

    def test_an_interrupt_leaves_it_where_it_is(self, session, model):
        session.read(GOOD, chunk_size=50)
        here = session.position

        def interrupt(*args):
            raise KeyboardInterrupt

        hook = model.model.layers[-1].mlp.register_forward_hook(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                session.rewind(to_token=77)
        finally:
            hook.remove()
        assert session.position is here

    def test_a_loaded_session_goes_back_to_where_it_was_loaded(self, session, tmp_path):
        session.read(GOOD)
        session.save(tmp_path / "session")
        loaded = Session.load(tmp_path / "session", session.model, byte_tokenizer())
        loaded.read(WRONG)
        loaded.rewind(to_token=150)
        assert_equal(loaded, session)
        assert loaded.places == (0, 150)

    def test_from_a_snapshot(self, session, never_wrong):
        session.read(GOOD, chunk_size=20)
        parked = session.snapshot()
        session.read(WRONG)
        back = Session.from_snapshot(parked, session.model, byte_tokenizer())
        back.read(RIGHT, chunk_size=20)
        assert_equal(back, never_wrong)


class TestRefused:
    @pytest.mark.parametrize("options", [{}, {"to_token": 1, "to_mark": "a"}, {"to_turn": 0, "to_mark": "a"}])
    def test_one_aim(self, session, options):
        with pytest.raises(InputError, match="one of to_token, to_mark and to_turn"):
            session.rewind(**options)

    @pytest.mark.parametrize("token", [-1, 151])
    def test_beyond_what_was_read(self, session, token):
        session.read(GOOD)
        with pytest.raises(InputError, match=f"to_token must be 0 to 150, the tokens read so far; got {token}"):
            session.rewind(to_token=token)

    def test_text_that_is_not_kept(self, model):
        session = settled(model, text_tokens=0)
        session.read(GOOD, chunk_size=50)
        here = session.position
        with pytest.raises(InputError, match=r"token 77 cannot be reached.* rewind to \d+ or \d+"):
            session.rewind(to_token=77)
        assert session.position is here

    @pytest.mark.parametrize("name", ["", "  ", "x" * 201])
    def test_names_of_marks(self, session, name):
        with pytest.raises(InputError, match="1 to 200 characters"):
            session.mark(name)

    def test_a_mark_without_a_history(self, model):
        session = settled(model, max_bytes=0)
        session.read(GOOD)
        with pytest.raises(InputError, match="expected at most 0"):
            session.mark("a")


@pytest.fixture(scope="module")
def chatty():
    return chat_model().double()


class TestChat:
    @pytest.fixture
    def session(self, chatty):
        return Session(chatty, chat_tokenizer())

    def say(self, session, *texts):
        for text in texts:
            session.chat(text, **says(session.tokenizer, f"It is {text}.<|im_end|>"))

    def test_turns_are_taken_back(self, session, chatty):
        self.say(session, "one", "two", "three")
        session.rewind(to_turn=1)
        assert session.turns == 1
        self.say(session, "four")
        ref = Session(chatty, chat_tokenizer())
        self.say(ref, "one", "four")
        assert_equal(session, ref)

    def test_with_texts_between(self, session, chatty):
        ref = Session(chatty, chat_tokenizer())
        for each in (session, ref):
            each.read("Once upon a time. ")
            self.say(each, "one")
            each.read("Meanwhile. ")
        self.say(session, "two")
        session.read("At last. ")
        assert session.rewind(to_turn=1) == 0
        assert_equal(session, ref)
        assert session.rewind(to_turn=0) == 0
        assert session.stats.tokens_read == len("Once upon a time. ")

    def test_a_turn_that_fails_leaves_no_place(self, session):
        self.say(session, "one")
        here = session.position
        with pytest.raises(ZeroDivisionError):
            session.chat("two", stop=lambda: 1 / 0)
        assert session.position is here

    def test_turns_that_are_not_kept(self, session):
        self.say(session, "one")
        with pytest.raises(InputError, match="the place after 5 messages is not kept; expected one of 0"):
            session.rewind(to_turn=5)


class TestTokens:
    def test_passes_made_elsewhere(self, session, model):
        """As a batch of several sessions makes them: the cache and the logits come from outside."""
        session.read(GOOD)
        ref, ids = session.fork(), list(b"and so on")
        ref.read_tokens(ids)
        cache = session.cache.fork()
        with torch.inference_mode():
            hidden = model.model(input_ids=torch.tensor([ids]), past_key_values=cache).last_hidden_state
            logits = logits_of(model, hidden[0, -1])
        session.commit(ids, cache, logits)
        assert_equal(session, ref)
        assert session.rewind(to_token=150) == ref.rewind(to_token=150)
        assert_equal(session, ref)

    def test_a_cache_that_stands_elsewhere(self, session):
        session.read(GOOD)
        for cache in (session.cache, type(session.cache)(2)):
            with pytest.raises(CacheError, match="must be one row of 151 tokens"):
                session.commit([1], cache, session.position.logits)

    @pytest.mark.parametrize("token", [-1, 257])
    def test_tokens_that_the_model_does_not_have(self, session, token):
        with pytest.raises(InputError, match=f"token {token} is none of the model's; expected 0 to 256"):
            session.read_tokens([1, token])
        assert session.stats.tokens_read == 0
