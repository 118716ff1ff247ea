"""Where a reply ends, and what a message may not hold."""

import pytest

from chats import CHATML, END, chat_model, chat_tokenizer
from infini_attention.data.chat import ChatTemplate
from infini_attention.errors import InputError
from infini_attention.sessions.dialogue import check_message, reply_ends
from tiny import byte_tokenizer


@pytest.mark.parametrize("template", [CHATML, "{{ messages | length }}" + CHATML])
def test_a_reply_ends_at_the_token_that_the_template_closes_it_with(template):
    """Even where the model's configuration knows another one alone."""
    tokenizer = chat_tokenizer(template)
    end = tokenizer.convert_tokens_to_ids(END)
    tokenizer.eos_token = "<end>"
    ends = reply_ends(ChatTemplate(tokenizer), chat_model())
    assert ends.token_ids == {256, end}
    assert ends.reply([104, end]).finished
    assert not ends.reply([104]).finished
    assert not ends.reply([]).finished


class TestMessages:
    @pytest.mark.parametrize("text", ["", " \n"])
    def test_empty(self, text):
        with pytest.raises(InputError, match="the question is empty; give at least one character"):
            check_message(text, "question", byte_tokenizer())

    def test_control_tokens(self):
        with pytest.raises(InputError, match=r"the message contains <\|im_end\|>, a control token"):
            check_message(f"What is {END}?", "message", chat_tokenizer())
        check_message(f"What is {END}?", "message", byte_tokenizer())  # no chat template: plain text

    def test_no_unicode(self):
        with pytest.raises(InputError, match="the message is not Unicode text"):
            check_message("a\udcff", "message", chat_tokenizer())
