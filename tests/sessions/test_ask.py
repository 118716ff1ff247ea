"""Session.ask: an answer from a fork, which leaves no trace."""

import pytest
import torch

from chats import CHATML, END, THINKING, TRIMMING, chat_model, chat_tokenizer, says, whole_ids
from helpers import tensors_of
from infini_attention.errors import InputError
from infini_attention.sessions import Session
from tiny import SEGMENT, new_session

TEXT = "Ann has a red bicycle; Bob, they say, has none. " * 2
QUESTION = "Who has a bicycle?"
COUNT = 2 * SEGMENT + 5


@pytest.fixture(scope="module")
def chatty():
    return chat_model().double()


@pytest.fixture(params=["plain", "template"])
def session(request, model, chatty):
    """Sessions that have read the text, of a model without a chat template and of one with it."""
    session = new_session(model) if request.param == "plain" else Session(chatty, chat_tokenizer())
    session.read(TEXT, chunk_size=50)
    return session


def tensors(session):
    """Copies of all numbers of a session."""
    states = [tensors_of(state) for state in session.cache.states]
    named = {f"{layer}.{name}": tensor for layer, state in enumerate(states) for name, tensor in state.items()}
    return {name: tensor.clone() for name, tensor in (named | {"logits": session.position.logits}).items()}


def generated(model, ids, count):
    """What the model writes after `ids`, read in one forward pass."""
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        out = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
    return out[0, len(ids) :].tolist()


class TestWithoutATemplate:
    def test_as_from_the_whole_text_at_once(self, model):
        session = new_session(model)
        session.read(TEXT, chunk_size=7)
        reply = session.ask(QUESTION, max_new_tokens=COUNT)
        ids = session.tokenizer(f"{TEXT}\n\nQuestion: {QUESTION}\nAnswer:")["input_ids"]
        ref = generated(model, ids, COUNT)
        stops = [place for place, token in enumerate(ref) if "\n" in session.tokenizer.decode([token])]
        ref = ref[: stops[0] + 1] if stops else ref
        assert list(reply.token_ids) == ref
        assert reply.text == session.tokenizer.decode(ref, skip_special_tokens=True).split("\n")[0].strip() != ""

    @pytest.mark.parametrize(
        ("said", "answer", "finished"),
        [(" Ann.\nQuestion: What", "Ann.", True), (" Ann", "Ann", False), ("\nAnn", "", True), (" Ann\n", "Ann", True)],
    )
    def test_the_answer_is_the_rest_of_the_line(self, model, said, answer, finished):
        session = new_session(model)
        reply = session.ask(QUESTION, **says(session.tokenizer, said))
        assert (reply.text, str(reply), reply.finished) == (answer, answer, finished)
        assert len(reply.token_ids) == len(said.partition("\n")[0]) + finished

    def test_the_end_token_ends_it_too(self, model):
        session = new_session(model)
        reply = session.ask(QUESTION, **says(session.tokenizer, "Ann<end>."))
        assert (reply.text, reply.token_ids[-1], reply.finished) == ("Ann", 256, True)


class TestWithATemplate:
    def test_as_from_the_whole_text_at_once(self, chatty):
        session = Session(chatty, chat_tokenizer())
        session.read(TEXT, chunk_size=7)
        reply = session.ask(QUESTION, max_new_tokens=COUNT)
        ids = session.tokenizer(TEXT)["input_ids"] + whole_ids(session.tokenizer, [QUESTION])
        ref = generated(chatty, ids, COUNT)
        stops = [place for place, token in enumerate(ref) if token == session.tokenizer.eos_token_id]
        assert list(reply.token_ids) == (ref[: stops[0] + 1] if stops else ref)

    def test_the_answer_ends_with_the_turn(self, chatty):
        session = Session(chatty, chat_tokenizer())
        reply = session.ask(QUESTION, **says(session.tokenizer, f" Ann:\n\nshe does.{END}And"))
        assert (reply.text, reply.finished) == (" Ann:\n\nshe does.", True)

    def test_after_a_chat_it_is_a_further_turn(self, chatty, monkeypatch):
        session = Session(chatty, chat_tokenizer())
        session.chat("Hi", **says(session.tokenizer, "Hello."))
        here, read = session.position, []
        monkeypatch.setattr(Session, "_write", lambda self, ids, *args, **options: read.append(ids) or [0, 0])
        session.ask(QUESTION)
        whole = whole_ids(session.tokenizer, ["Hi", "Hello.", QUESTION])
        assert whole[here.stats.tokens_read :] == read[0]

    def test_a_template_that_could_not_chat_can_be_asked(self, chatty):
        session = Session(chatty, chat_tokenizer("{{ messages | length }}" + CHATML))
        assert session.ask(QUESTION, **says(session.tokenizer, f"Ann{END}")).text == "Ann"

    @pytest.mark.parametrize("read", ["", TEXT])
    def test_the_start_token_stands_once(self, chatty, monkeypatch, read):
        session = Session(chatty, chat_tokenizer(TRIMMING, bos="<s>"))
        if read:
            session.read(read)
        seen = []
        monkeypatch.setattr(Session, "_write", lambda self, ids, *args, **options: seen.append(ids) or [0, 0])
        session.ask(QUESTION)
        whole = whole_ids(session.tokenizer, [QUESTION])
        assert whole[0] == session.tokenizer.bos_token_id
        assert seen[0] == (whole[1:] if read else whole)

    def test_a_thinking_model_can_be_asked(self, chatty):
        session = Session(chatty, chat_tokenizer(THINKING))
        said = "<think>Ann or Bob?</think>Ann."
        assert session.ask(QUESTION, **says(session.tokenizer, said)).text == said


def test_the_session_stays_as_it_is_to_the_last_bit(session):
    before, position = tensors(session), session.position
    first = session.ask(QUESTION, max_new_tokens=COUNT)
    assert session.position is position
    after = tensors(session)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert session.ask(QUESTION, max_new_tokens=COUNT) == first


def test_greedy_whatever_the_models_configuration_says(session, monkeypatch):
    first = session.ask(QUESTION, max_new_tokens=COUNT)
    monkeypatch.setattr(session.model.generation_config, "do_sample", True)
    assert session.ask(QUESTION, max_new_tokens=COUNT) == first


def test_sampling(session):
    torch.manual_seed(0)
    answers = {session.ask(QUESTION, max_new_tokens=20, do_sample=True, temperature=2.0, top_p=0.9) for _ in range(3)}
    torch.manual_seed(0)
    assert session.ask(QUESTION, max_new_tokens=20, do_sample=True, temperature=2.0, top_p=0.9) in answers
    assert len(answers) == 3


def test_it_can_be_stopped(session):
    reply = session.ask(QUESTION, stop=lambda: True, **says(session.tokenizer, "Ann"))
    assert (reply.text, reply.finished) == ("A", False)


def test_of_a_session_that_has_read_nothing(model, chatty):
    for session in (new_session(model), Session(chatty, chat_tokenizer())):
        assert session.ask(QUESTION, **says(session.tokenizer, "Ann")).text == "Ann"
        assert session.stats.tokens_read == 0


def test_an_empty_question_is_refused(session):
    with pytest.raises(InputError, match="the question is empty"):
        session.ask(" ")
