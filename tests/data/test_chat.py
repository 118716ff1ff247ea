"""Turn by turn = the template applied to the whole conversation; templates that cannot do this are refused."""

import pytest

from chats import BRACKETS, CHATML, THINKING, TRIMMING, chat_tokenizer, whole_ids, with_template
from infini_attention.data.chat import ChatTemplate
from infini_attention.errors import ModelError
from tiny import byte_level, byte_tokenizer

MESSAGES = ["Hi", "  What is 2 + 2?\n", "It is so, indeed. Is it so?", "Grüße! " * 20]
REPLIES = ["Hello.", "4", "Yes,\n\nindeed", "Gern geschehen"]

COUNTING = "{{ messages | length }}" + CHATML
FORGETTING = "{% set messages = messages[-1:] %}" + CHATML
SHORT = "{% set messages = messages[-3:] %}" + CHATML.replace("loop.first and", "false and")
SHOUTING = CHATML.replace("message['content']", "message['content'] | upper")
# Newlines are words of their own, as in Llama 3's split; in GPT-2's, the last of several belongs to what follows.
NEWLINES = r"\s*[\r\n]+| ?\w+|[^\s\w]+|\s+"
REFUSING = "{{ raise_exception('only one message') if messages | length > 1 }}" + CHATML


def turn_by_turn(tokenizer, messages, replies, *, lead=""):
    template = ChatTemplate(tokenizer)
    template.check_stable()
    ids = template.first(messages[0])
    for reply, message in zip(replies, messages[1:], strict=False):
        ids += tokenizer(lead + reply, add_special_tokens=False)["input_ids"]
        ids += template.closing + template.following(message)
    return ids


def interleaved(messages, replies):
    return [text for pair in zip(messages, replies, strict=True) for text in pair][:-1]


@pytest.mark.parametrize(
    ("template", "lead"), [(CHATML, ""), (TRIMMING, ""), (BRACKETS, " "), (THINKING, "")], ids=lambda text: text[:9]
)
@pytest.mark.parametrize("turns", [1, 2, 4])
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_turn_by_turn_is_the_whole(kind, template, lead, turns):
    tokenizer = with_template(byte_tokenizer() if kind == "bytes" else byte_level(NEWLINES), template)
    messages, replies = MESSAGES[:turns], REPLIES[:turns]
    whole = whole_ids(tokenizer, interleaved(messages, replies))
    assert turn_by_turn(tokenizer, messages, replies, lead=lead) == whole


def test_the_reply_of_a_trimming_template_stays_as_it_was_written():
    ChatTemplate(chat_tokenizer(TRIMMING)).check_reply("Hi", "\n Hello. ")


@pytest.mark.parametrize("template", [COUNTING, FORGETTING, SHORT, SHOUTING])
def test_a_template_that_changes_earlier_turns_is_refused(template):
    with pytest.raises(ModelError, match=r"cannot be applied turn by turn.*ask each question by itself"):
        ChatTemplate(chat_tokenizer(template)).check_stable()


def test_tokens_that_join_across_a_turn_are_refused():
    with pytest.raises(ModelError, match="its tokens join across"):
        ChatTemplate(with_template(byte_level(), TRIMMING)).check_stable()


def test_a_template_that_drops_thoughts_is_refused_once_there_is_one():
    template = ChatTemplate(chat_tokenizer(THINKING))
    template.check_reply("Hi", "Hello.")
    with pytest.raises(ModelError, match="it changes what the model has replied"):
        template.check_reply("Hi", "<think>\nA greeting.\n</think>\n\nHello.")


def test_a_template_that_refuses_is_a_readable_error():
    with pytest.raises(ModelError, match=r"refuses a conversation of user and assistant \(only one message\)"):
        ChatTemplate(chat_tokenizer(REFUSING)).check_stable()


def test_no_template():
    with pytest.raises(ModelError, match="the model has no chat template: expected one"):
        ChatTemplate(byte_tokenizer())
