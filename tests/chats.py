"""Chat templates, tokenizers that have them, and models that say what a test wants."""

from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from infini_attention.models import InfiniLlamaForCausalLM
from tiny import byte_tokenizer, infini_model

START, END = "<|im_start|>", "<|im_end|>"
CHAT_VOCABULARY = 259

# As SmolLM2-Instruct: a system prompt of its own before the first message.
CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3: a start token, trimmed messages, no system prompt.
TRIMMING = (
    "{{ bos_token }}{% for message in messages %}{{ '[' + message['role'] + ']\n\n' + message['content'] | trim }}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]\n\n' }}{% endif %}"
)
# As Mistral: nothing before a reply but a space, which the prompt lacks.
BRACKETS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
# As Qwen 3: the last reply gets an empty thought, and the thoughts of earlier ones go.
THINKING = (
    "{% for message in messages %}{% set content = message['content'].split('</think>')[-1] %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if loop.last and message['role'] == 'assistant' %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_template(tokenizer: PreTrainedTokenizerBase, template: str | None = CHATML) -> PreTrainedTokenizerBase:
    """The same tokenizer with a template, and the control tokens of one."""
    tokenizer.add_special_tokens({"eos_token": END, "additional_special_tokens": [START]})
    tokenizer.chat_template = template
    return tokenizer


def chat_tokenizer(template: str | None = CHATML, *, bos: str | None = None) -> PreTrainedTokenizerBase:
    """One token per byte, and three more, of which END ends a turn."""
    return with_template(byte_tokenizer(bos), template)


def chat_model(*, rule: str = "gated_delta") -> InfiniLlamaForCausalLM:
    """Knows the tokens of `chat_tokenizer`."""
    return infini_model(rule=rule, vocabulary=CHAT_VOCABULARY)


def conversation(texts: list[str]) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def whole_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    """A conversation with the template applied to all of it at once; after a user's message, a reply is due."""
    due = len(texts) % 2 == 1
    return tokenizer.apply_chat_template(conversation(texts), add_generation_prompt=due, return_dict=False)


class _Says(LogitsProcessor):
    def __init__(self, token_ids: list[int]) -> None:
        self.left = list(token_ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.left.pop(0)] = 0
        return forced


def says(tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, Any]:
    """Options that make a model say just this."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"logits_processor": LogitsProcessorList([_Says(ids)]), "max_new_tokens": len(ids)}
