"""Writing a reply: which token comes next, what text the tokens are, and where it ends."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedTokenizerBase, TemperatureLogitsWarper, TopPLogitsWarper

# Tokens that are held back until they are whole characters; a character of UTF-8 has at most four bytes.
_HELD_TOKENS = 8
_BROKEN = "\N{REPLACEMENT CHARACTER}"

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How a reply is chosen.

    Attributes:
        temperature: 0 always takes the likeliest token.
        top_p: the likeliest share to choose from.
        seed: the same one gives the same reply; None is another one each time.
        max_new_tokens: the end token counts.
        stop: texts that end a reply and are no part of it.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Writer:
    """A reply that is being written.

    Args:
        tokenizer: of the model.
        sampling: how.
        ends: tokens that end it.
        emit: called with each piece of text as soon as it is certain to be part of the reply.

    Attributes:
        token_ids: all that were written, one that ended it included.
        text: that they are, as far as it is certain.
        finish: why it ended; None before that.
        ended: whether by one of `ends`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        ends: Collection[int],
        emit: Callable[[str], Any] = lambda text: None,
    ) -> None:
        self.tokenizer, self.sampling, self.ends, self.emit = tokenizer, sampling, ends, emit
        self.token_ids: list[int] = []
        self.text, self.ended = "", False
        self.finish: Finish | None = None
        self._start = self._read = 0  # tokens whose text gives the next one its place, and those that are text already
        self._held = ""  # may be the beginning of a stop text
        self._warpers = LogitsProcessorList()
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_p < 1:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def choose(self, logits: Tensor, likeliest: int | None = None) -> None:
        """Writes the next token, given logits `[V]` (float32) and, where that is known, the likeliest token."""
        if self.sampling.temperature > 0:
            token = self._sample(logits)
        else:
            token = int(logits.argmax()) if likeliest is None else likeliest
        self.token_ids.append(token)
        if token in self.ends:
            self.finish, self.ended = "stop", True
        else:
            self._add(self._decoded(last=False))
        if self.finish is None and len(self.token_ids) == self.sampling.max_new_tokens:
            self.finish = "length"
        if self.finish is not None:
            self._end()

    def _sample(self, logits: Tensor) -> int:
        if self._generator is None:
            self._generator = torch.Generator(logits.device)
            if self.sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.sampling.seed)
        written = torch.tensor([self.token_ids], dtype=torch.int64)
        chances = self._warpers(written, logits[None]).softmax(-1)  # type: ignore[arg-type]
        return int(torch.multinomial(chances, 1, generator=self._generator))

    def _decoded(self, *, last: bool) -> str:
        """The text of the newest tokens, once they are whole characters."""
        before = self._decode(self._start, self._read)
        text = self._decode(self._start, len(self.token_ids) - self.ended)
        if text.endswith(_BROKEN) and not last and len(self.token_ids) - self._read < _HELD_TOKENS:
            return ""
        self._start, self._read = self._read, len(self.token_ids)
        return text[len(before) :]

    def _decode(self, start: int, stop: int) -> str:
        return str(self.tokenizer.decode(self.token_ids[start:stop], skip_special_tokens=True))

    def _add(self, text: str) -> None:
        """Hands on what cannot be the beginning of a stop text."""
        self._held += text
        if self._cut():
            return
        open_ends = (
            size
            for stop in self.sampling.stop
            for size in range(1, min(len(stop), len(self._held)) + 1)
            if self._held.endswith(stop[:size])
        )
        certain = len(self._held) - max(open_ends, default=0)
        self._hand_on(self._held[:certain])
        self._held = self._held[certain:]

    def _end(self) -> None:
        if self.finish == "length" or self.ended:
            self._held += self._decoded(last=True)
            self._cut()
        self._hand_on(self._held)
        self._held = ""

    def _cut(self) -> bool:
        """Takes away the first stop text and what follows; whether there is one."""
        found = [place for stop in self.sampling.stop if (place := self._held.find(stop)) >= 0]
        if found:
            self._held, self.finish = self._held[: min(found)], "stop"
        return bool(found)

    def _hand_on(self, text: str) -> None:
        if text:
            self.text += text
            self.emit(text)
