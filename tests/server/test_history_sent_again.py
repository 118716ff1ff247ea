"""An ordinary chat client sends its whole history with each message, and pays for what is new alone."""

import string

import openai
import pytest
import torch

from chats import chat_model, chat_tokenizer, conversation, whole_ids
from server_helpers import running

pytestmark = pytest.mark.slow
TURNS, REPLY_TOKENS = 100, 6


@pytest.fixture
def plain():
    """A model that writes letters only, so that its replies, sent again, are the tokens that it wrote."""
    model, tokenizer = chat_model(), chat_tokenizer()
    letters = tokenizer(string.ascii_lowercase)["input_ids"]

    def letters_alone(module, inputs, logits):
        mask = torch.full(logits.shape[-1:], -1e9)
        mask[letters] = 0
        return logits + mask

    model.lm_head.register_forward_hook(letters_alone)
    return model, tokenizer


def test_of_100_turns(plain, tmp_path):
    model, tokenizer = plain
    passes, texts, read, known = [], [], [], 0
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: passes.append(inputs[0].numel()))
    with running(plain, tmp_path) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        for turn in range(TURNS):
            texts.append(f"Message number {turn:03}.")
            passes.clear()
            done = client.chat.completions.create(
                model="tiny", messages=conversation(texts), max_tokens=REPLY_TOKENS, temperature=0
            )
            texts.append(done.choices[0].message.content)
            prompt, used = len(whole_ids(tokenizer, texts[:-1])), done.usage
            assert (used.prompt_tokens, used.prompt_tokens_details.cached_tokens) == (prompt, known)
            # The last token of a reply is written, and not read.
            read.append(sum(passes))
            assert read[-1] == prompt - known + REPLY_TOKENS - 1
            known = prompt + REPLY_TOKENS - 1
            assert (done.infini["tokens_seen"], done.infini["dropped"]) == (known, 0)
    assert read[99] == read[1] < known / 90
