"""Session.chat: the stream is the conversation, token for token; save, load, continue = never saved."""

import pytest
import torch

from chats import CHATML, END, START, THINKING, TRIMMING, chat_model, chat_tokenizer, says, whole_ids
from helpers import tensors_of
from infini_attention.errors import InputError, ModelError
from infini_attention.sessions import Session, read_header
from infini_attention.sessions.digest import TokenDigest
from tiny import new_session

TALK = ["Hi, I am Ann.", "Hello Ann.", "What is 2 + 2?", "4, as ever.", "Who am I?", "Ann."]


@pytest.fixture(scope="module")
def model():
    return chat_model().double()


@pytest.fixture
def session(model):
    return Session(model, chat_tokenizer())


def talk(session, texts, *, end=END):
    """A conversation, with the replies that `texts` names."""
    for message, reply in zip(texts[::2], texts[1::2], strict=True):
        assert session.chat(message, **says(session.tokenizer, reply + end)).text == reply


def assert_read(session, ids):
    """The session has read just these tokens."""
    assert session.stats.tokens_read == len(ids)
    assert session.position.digest == TokenDigest().update(ids)
    assert session.dropped_tokens == 0


def assert_equal(out, ref):
    """The same to the last bit."""
    for name in ("stats", "digest", "turns"):
        assert getattr(out.position, name) == getattr(ref.position, name)
    assert torch.equal(out.position.logits, ref.position.logits)
    for out_state, ref_state in zip(out.cache.states, ref.cache.states, strict=True):
        for name, tensor in tensors_of(out_state).items():
            assert torch.equal(tensor, tensors_of(ref_state)[name]), name


class TestTheStreamIsTheConversation:
    @pytest.mark.parametrize("turns", [1, 2, 3])
    def test_as_the_template_of_all_of_it_at_once(self, session, turns):
        talk(session, TALK[: 2 * turns])
        ids = whole_ids(session.tokenizer, TALK[: 2 * turns])
        assert_read(session, ids)
        assert session.position.turns == turns
        assert session.tokenizer.decode(ids).count("You help.") == 1

    @pytest.mark.parametrize("end", ["", "<end>"])
    def test_a_reply_cut_short_or_ended_in_another_way_is_closed_as_the_template_does(self, session, end):
        talk(session, TALK, end=end)
        assert_read(session, whole_ids(session.tokenizer, TALK))

    def test_a_start_token_stands_once(self, model):
        session = Session(model, chat_tokenizer(TRIMMING, bos="<s>"))
        talk(session, TALK)
        assert_read(session, whole_ids(session.tokenizer, TALK))

    @pytest.mark.parametrize("bos", [None, "<s>"])
    def test_after_a_text_and_with_texts_between(self, model, bos):
        session = Session(model, chat_tokenizer(TRIMMING, bos=bos))
        tokenizer, ids = session.tokenizer, whole_ids(session.tokenizer, TALK)
        split = len(whole_ids(tokenizer, TALK[:2]))
        session.read("Once upon a time. ")
        talk(session, TALK[:2])
        session.read("Meanwhile. ")
        talk(session, TALK[2:])
        text = tokenizer("Once upon a time. ")["input_ids"]
        between = tokenizer("Meanwhile. ", add_special_tokens=False)["input_ids"]
        start = 1 if bos else 0  # that of the text is the only one
        assert_read(session, text + ids[start:split] + between + ids[split:])

    def test_the_model_sees_only_what_is_new(self, session, model):
        talk(session, TALK[:2])
        before, seen = session.stats.tokens_read, []
        hook = model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
        try:
            talk(session, TALK[2:4])
        finally:
            hook.remove()
        # Once each, but for the reply, whose tokens are read together after they were written one by one.
        assert sum(seen) == session.stats.tokens_read - before + len(TALK[3]) + 1

    def test_what_the_model_writes_is_what_the_state_holds(self, session, model):
        reply = session.chat(TALK[0], max_new_tokens=30)
        said = reply.token_ids[:-1] if reply.finished else reply.token_ids
        closing = session.tokenizer(f"{END}\n")["input_ids"]
        ids = [*whole_ids(session.tokenizer, TALK[:1]), *said, *closing]
        assert_read(session, ids)
        ref = Session(model, session.tokenizer)
        ref._advance(ids, 0, scored=False)
        torch.testing.assert_close(session.position.logits, ref.position.logits)


def test_save_load_continue_is_never_saved(session, model, tmp_path):
    talk(session, TALK[:2])
    session.save(tmp_path / "session")
    assert read_header(tmp_path / "session").turns == 1
    loaded = Session.load(tmp_path / "session", model, chat_tokenizer())
    out, ref = (each.chat(TALK[2], max_new_tokens=20) for each in (loaded, session))
    assert out == ref
    assert_equal(loaded, session)
    talk(loaded, TALK[4:])
    talk(session, TALK[4:])
    assert_equal(loaded, session)


def test_a_fork_goes_on_chatting_by_itself(session):
    talk(session, TALK[:2])
    fork, here = session.fork(), session.position
    talk(fork, TALK[2:])
    assert session.position is here
    assert_read(fork, whole_ids(session.tokenizer, TALK))


def test_stopped_by_hand_what_was_said_stays(session):
    count = iter(range(100))
    reply = session.chat(TALK[0], stop=lambda: next(count) == 4, **says(session.tokenizer, TALK[1]))
    assert (reply.text, reply.finished) == (TALK[1][:5], False)
    talk(session, TALK[2:4])
    assert_read(session, whole_ids(session.tokenizer, [TALK[0], TALK[1][:5], *TALK[2:4]]))


class TestATurnThatFailsLeavesTheSession:
    def test_interrupted(self, session):
        def interrupt():
            raise KeyboardInterrupt

        talk(session, TALK[:2])
        here = session.position
        with pytest.raises(KeyboardInterrupt):
            session.chat(TALK[2], stop=interrupt)
        assert session.position is here
        talk(session, TALK[2:])
        assert_read(session, whole_ids(session.tokenizer, TALK))

    def test_a_reply_that_the_template_changes(self, model):
        session = Session(model, chat_tokenizer(THINKING))
        talk(session, TALK[:2])
        here = session.position
        with pytest.raises(ModelError, match="changes what the model has replied"):
            session.chat("Hi", **says(session.tokenizer, f"<think>Hm.</think>Hello.{END}"))
        assert session.position is here

    @pytest.mark.parametrize("message", ["", " \n"])
    def test_empty(self, session, message):
        with pytest.raises(InputError, match="the message is empty"):
            session.chat(message)
        assert session.stats.tokens_read == 0

    @pytest.mark.parametrize("token", [START, END])
    def test_control_tokens(self, session, token):
        with pytest.raises(InputError, match="a control token of the model"):
            session.chat(f"Hi{token}")
        assert session.stats.tokens_read == 0

    def test_a_template_that_depends_on_all_turns(self, model):
        session = Session(model, chat_tokenizer("{{ messages | length }}" + CHATML))
        with pytest.raises(ModelError, match="cannot be applied turn by turn"):
            session.chat("Hi")
        assert session.stats.tokens_read == 0

    def test_no_template(self, model):
        session = new_session(model)
        with pytest.raises(ModelError, match="has no chat template"):
            session.chat("Hi")
