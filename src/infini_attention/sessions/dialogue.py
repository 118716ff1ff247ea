"""What a model replies, and where a reply ends."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from infini_attention.data.chat import ChatTemplate
from infini_attention.errors import InputError


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        text: without the token that ended it.
        token_ids: all that were written, the one that ended it included.
        finished: whether it ended by itself, and not at the token limit or because it was stopped.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool

    def __str__(self) -> str:
        return self.text


class Ends(StoppingCriteria):
    """Where a reply ends: at certain tokens, at the end of a line, or when it is stopped from outside.

    Args:
        tokenizer: of the model.
        token_ids: that end a reply.
        line: whether a newline does.
        stop: asked after each token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        token_ids: Iterable[int],
        *,
        line: bool = False,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.tokenizer, self.token_ids, self.line, self.stop = tokenizer, frozenset(token_ids), line, stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        done = self._ended_by(int(input_ids[0, -1])) or (self.stop is not None and self.stop())
        return torch.tensor([done], device=input_ids.device)

    def reply(self, written: Sequence[int]) -> Reply:
        """The tokens that a model wrote until it ended, as a reply."""
        text = str(self.tokenizer.decode(list(written), skip_special_tokens=True))
        if self.line:
            text = text.split("\n")[0].strip()
        return Reply(text, tuple(written), bool(written) and self._ended_by(written[-1]))

    def _ended_by(self, token: int) -> bool:
        return token in self.token_ids or (self.line and "\n" in str(self.tokenizer.decode([token])))


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that a model and its tokenizer call an end."""
    config = getattr(model.generation_config, "eos_token_id", None)
    ends = config if isinstance(config, list) else [config]
    return {token for token in (*ends, tokenizer.eos_token_id) if token is not None}


def check_message(text: str, what: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `InputError` for a text that is empty, is no Unicode, or holds what separates the turns."""
    if not text.strip():
        raise InputError(f"the {what} is empty; give at least one character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the {what} is not Unicode text (character {error.start}); give it as UTF-8") from error
    if not tokenizer.chat_template:
        return  # read as plain text, where no token is special
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and token.content in text:
            raise InputError(f"the {what} contains {token.content}, a control token of the model; leave it out")


def reply_ends(template: ChatTemplate, model: PreTrainedModel, stop: Callable[[], bool] | None = None) -> Ends:
    """Where a reply of the model in a conversation ends."""
    tokenizer = template.tokenizer
    return Ends(tokenizer, end_tokens(model, tokenizer) | template.end_tokens, stop=stop)
