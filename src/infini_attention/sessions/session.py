"""A session: a stream that is read, asked, talked with, taken back and saved."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import StoppingCriteriaList

from infini_attention.data import tokenize_stream
from infini_attention.data.chat import PLAIN_QUESTION, ChatTemplate
from infini_attention.errors import InputError
from infini_attention.sessions.dialogue import Ends, Reply, check_message, end_tokens, reply_ends
from infini_attention.sessions.stream import CHUNK_TOKENS
from infini_attention.sessions.timeline import Timeline


class Session(Timeline):
    """A stream of one row. Reading and generating move it forward, `rewind` back; `fork()` makes a second one.

    It can be read to (`read`, `read_tokens`), talked with (`generate`, `ask`, `chat`), taken back (`mark`, `rewind`)
    and kept (`snapshot`, `save`, `load`; in a `SessionStore` with its history).

    Args:
        model: an Infini model.
        tokenizer: its tokenizer.
        name: what the model is called, kept in snapshots as a hint.
        adapter: that gave the model its memory, kept in snapshots as a hint.
        history: how much of its past it keeps, to go back to.
    """

    def generate(self, prompt: str, **options: Any) -> str:
        """Reads `prompt` and goes on writing. The session has then read the prompt and all that was written.

        Args:
            prompt: text to go on from.
            options: max_new_tokens (128), a streamer of Transformers to print as it comes, and others of
                `GenerationMixin.generate`, such as do_sample (False), temperature, top_p.

        Returns:
            What was written.
        """
        ids = self._tokens_of(prompt)
        if not ids:
            raise InputError("the prompt is empty; give at least one character")
        last, *written = self._write(ids, **options)
        self._advance([last, *written], 0, scored=False)
        return str(self.tokenizer.decode(written, skip_special_tokens=True))

    def ask(self, question: str, *, stop: Callable[[], bool] | None = None, **options: Any) -> Reply:
        """Answers from a fork: the session stays as it is, to the last bit.

        With a chat template, the question is a user's turn behind all that was read; without one, the text goes on
        with "Question: ... Answer:", and the answer is the rest of that line.

        Args:
            question: any text.
            stop: asked after each token; true ends the answer.
            options: those of `generate`.

        Raises:
            InputError: an empty question, or one with control tokens.
            ModelError: a chat template that fails.
        """
        ids, ends = self.question(question, stop=stop)
        _, *written = self.fork()._write(ids, ends, **options)
        return ends.reply(written)

    def question(self, question: str, *, stop: Callable[[], bool] | None = None) -> tuple[list[int], Ends]:
        """The tokens with which `ask` asks, and where the answer ends. Raises as `ask` does."""
        check_message(question, "question", self.tokenizer)
        if self.tokenizer.chat_template:
            template = ChatTemplate(self.tokenizer)
            return self._turn(template, question), reply_ends(template, self.model, stop)
        ids = self._tokens_of(PLAIN_QUESTION.format(question=question))
        return ids, Ends(self.tokenizer, end_tokens(self.model, self.tokenizer), line=True, stop=stop)

    def chat(self, message: str, *, stop: Callable[[], bool] | None = None, **options: Any) -> Reply:
        """Replies to a message; both stay in the stream, as the turns that the model's chat template makes of them.

        Only the new tokens are read, and nothing else of the conversation is kept. The system prompt of the template
        stands before the first message. A turn that fails or is interrupted leaves the session as it was; one that
        `stop` or max_new_tokens cut short counts as said.

        Args:
            message: any text.
            stop: asked after each token; true ends the reply.
            options: those of `generate`.

        Raises:
            InputError: an empty message, or one with control tokens.
            ModelError: no chat template, or one that cannot be applied turn by turn.
        """
        ids, ends = self.message(message, stop=stop)
        turn = self.fork()
        turn.open_turn()
        last, *written = turn._write(ids, ends, **options)
        reply = ends.reply(written)
        ChatTemplate(self.tokenizer).check_reply(message, reply.text)
        turn.close_turn([last, *written], finished=reply.finished)
        self.position = turn.position
        return reply

    def message(self, message: str, *, stop: Callable[[], bool] | None = None) -> tuple[list[int], Ends]:
        """The tokens with which `chat` says a message, and where the reply ends. Raises as `chat` does."""
        template = ChatTemplate(self.tokenizer)
        template.check_stable()
        check_message(message, "message", self.tokenizer)
        return self._turn(template, message), reply_ends(template, self.model, stop)

    def open_turn(self) -> None:
        """A message begins here, so that `rewind(to_turn=...)` finds it."""
        self.position = self.position.keep(border=True, opens=self.turns)

    def close_turn(self, unread: Sequence[int], *, finished: bool) -> None:
        """A reply ends here: reads what is unread of it, and what the template puts behind it.

        Args:
            unread: tokens of the reply, or of it and its message.
            finished: whether the last of them is one that ends a reply: the template's own end takes its place.
        """
        said = unread[:-1] if finished else unread
        self.read_tokens([*said, *ChatTemplate(self.tokenizer).closing])
        self.position = replace(self.position, turns=self.turns + 1).keep(border=True)

    def _turn(self, template: ChatTemplate, message: str) -> list[int]:
        """The tokens of the next message."""
        if self.position.turns:
            return template.following(message)
        ids, start = template.first(message), self._tokens_of("", start=True)
        # A start token stands once, at the start of the stream.
        return ids[len(start) :] if self.stats.tokens_read and ids[: len(start)] == start else ids

    def _tokens_of(self, text: str, *, start: bool | None = None) -> list[int]:
        start = self.stats.tokens_read == 0 if start is None else start
        return [token for piece in tokenize_stream([text], self.tokenizer, start=start) for token in piece.token_ids]

    @torch.inference_mode()
    def _write(
        self,
        token_ids: Sequence[int],
        ends: Ends | None = None,
        *,
        max_new_tokens: int = 128,
        streamer: Any = None,
        do_sample: bool = False,
        **options: Any,
    ) -> list[int]:
        """Reads all tokens but the last; gives that one and what the model writes after it, both yet to be read."""
        *read, last = token_ids
        for first in range(0, len(read), CHUNK_TOKENS):
            self._advance(read[first : first + CHUNK_TOKENS], 0, scored=False)
        if ends is not None:
            options["stopping_criteria"] = StoppingCriteriaList([*options.get("stopping_criteria", ()), ends])
        tokens = torch.tensor([[last]], device=self.model.device)
        columns = self.cache.get_seq_length() + 1
        out = self.model.generate(  # type: ignore[operator]
            tokens,
            attention_mask=tokens.new_ones(1, columns),
            past_key_values=self.cache.fork(),
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            do_sample=do_sample,  # given always: a model's own configuration may say otherwise
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
            **options,
        )
        return [int(token) for token in out[0]]
