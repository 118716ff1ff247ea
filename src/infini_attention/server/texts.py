"""From the text of a request to tokens: in a thread of its own, with a tokenizer of its own.

Tokenizers are not made for several threads at a time, and a long text would keep the engine from writing.
"""

import asyncio
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.data import tokenize_stream
from infini_attention.data.chat import ChatTemplate
from infini_attention.data.haystack import Haystack
from infini_attention.data.novel import book_path
from infini_attention.errors import InputError
from infini_attention.server.errors import ApiError
from infini_attention.sessions import Session
from infini_attention.sessions.dialogue import Ends, check_message, end_tokens

T = TypeVar("T")
Messages = Sequence[Mapping[str, str]]  # role and content


@dataclass(frozen=True)
class Prompt:
    """What a reply goes on from.

    Attributes:
        token_ids: of a session's next turn, or of all that there is.
        ends: tokens that end the reply.
        stop: texts that do.
        borders: numbers of tokens after which a later prompt may go on otherwise.
    """

    token_ids: list[int]
    ends: frozenset[int]
    stop: tuple[str, ...] = ()
    borders: tuple[int, ...] = ()


class Texts:
    """Makes prompts.

    Args:
        model: whose they are.
        tokenizer: is copied.
        most: tokens that a prompt may have.

    Raises:
        ApiError: in all methods: a longer prompt.
        InputError: an empty text, or one with control tokens.
        ModelError: no chat template, or one that does not take these messages.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: int) -> None:
        self.model, self.tokenizer, self.most = model, copy.deepcopy(tokenizer), most
        self._ends = frozenset(end_tokens(model, tokenizer))
        self._thread = ThreadPoolExecutor(1, "infini-texts")
        self._novel: Haystack | None = None

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    async def novel(self) -> Haystack:
        """The novel that comes with the package, for probes; tokenized once, when it is first wanted."""
        if self._novel is None:
            self._novel = await self._run(lambda: Haystack.book(self.tokenizer, [book_path()]))
        return self._novel

    async def of_text(self, session: Session, text: str) -> Prompt:
        """Of a plain text that a session goes on with; the tokenizer's start token stands at the start of a stream."""
        start = session.stats.tokens_read == 0

        def prompt() -> list[int]:
            check_text(text)
            pieces = tokenize_stream([text], self.tokenizer, start=start)
            return [token for piece in pieces for token in piece.token_ids]

        return Prompt(await self._checked(prompt), self._ends)

    async def of_tokens(self, token_ids: list[int]) -> Prompt:
        """As they are."""
        return Prompt(await self._checked(lambda: token_ids), self._ends)

    async def of_several(self, session: Session, texts: Sequence[str | list[int]]) -> list[Prompt]:
        """Of texts, or tokens, that nothing stands before; together they may have no more tokens than one."""
        prompts = list[Prompt]()
        for text in texts:
            one = self.of_text(session, text) if isinstance(text, str) else self.of_tokens(text)
            prompts.append(await one)
            self._check_number(sum(len(prompt.token_ids) for prompt in prompts), "the prompts have")
        return prompts

    async def of_messages(self, messages: Messages) -> Prompt:
        """Of a whole conversation, as the chat template puts it, up to where the next reply begins."""

        def prompt() -> tuple[list[int], frozenset[int], tuple[int, ...]]:
            template = ChatTemplate(self.tokenizer)
            for number, message in enumerate(messages):
                if message["content"].strip() or message["role"] == "user":
                    check_message(message["content"], f"message {number}", self.tokenizer)
            ids = self._rendered(messages, reply=True)
            return ids, frozenset(template.end_tokens), tuple(self._borders(messages, ids))

        ids, ends, borders = await self._run(prompt)
        self._check_length(ids)
        return Prompt(ids, self._ends | ends, borders=borders)

    async def of_start(self, messages: Messages) -> Prompt:
        """Of a conversation that is gone on with turn by turn."""
        await self._run(lambda: ChatTemplate(self.tokenizer).check_stable())
        return await self.of_messages(messages)

    async def of_question(self, session: Session, question: str) -> Prompt:
        """What `Session.ask` reads."""
        return await self._of_turn(session, lambda asker: asker.question(question))

    async def of_message(self, session: Session, message: str) -> Prompt:
        """What `Session.chat` reads."""
        return await self._of_turn(session, lambda speaker: speaker.message(message))

    async def _of_turn(self, session: Session, turn: Callable[[Session], tuple[list[int], Ends]]) -> Prompt:
        def prompt() -> tuple[list[int], Ends]:
            speaker = session.fork()
            speaker.tokenizer = self.tokenizer
            return turn(speaker)

        ids, ends = await self._run(prompt)
        self._check_length(ids)
        return Prompt(ids, ends.token_ids, ("\n",) if ends.line else ())

    def _borders(self, messages: Messages, ids: list[int]) -> Iterator[int]:
        """Before the last message, unless a reply ends there, whose end is known anyway."""
        if len(messages) > 1 and messages[-2]["role"] != "assistant":
            try:
                before = self._rendered(messages[:-1], reply=False)
            except InputError:  # a template may want what comes after
                return
            if ids[: len(before)] == before:
                yield len(before)

    def _rendered(self, messages: Messages, *, reply: bool) -> list[int]:
        try:
            ids = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=reply, return_dict=False
            )
        except TemplateError as error:
            raise InputError(f"the model's chat template does not take these messages: {error}") from error
        return list(ids)

    async def _checked(self, prompt: Callable[[], list[int]]) -> list[int]:
        ids = await self._run(prompt)
        self._check_length(ids)
        return ids

    def _check_length(self, ids: list[int]) -> None:
        if not ids:
            raise InputError("the prompt is empty; give at least one character")
        self._check_number(len(ids), "the prompt has")
        vocab_size = self.model.config.vocab_size
        strange = min(ids) if min(ids) < 0 else max(ids)
        if not 0 <= strange < vocab_size:
            raise InputError(f"token {strange} is none of the model's; expected 0 to {vocab_size - 1}")

    def _check_number(self, tokens: int, who: str) -> None:
        if tokens > self.most:
            raise ApiError(
                413,
                f"{who} {tokens:,} tokens, this server takes at most {self.most:,} at a time; read longer "
                "texts into a session",
                "context_length_exceeded",
            )

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


def check_text(text: str) -> None:
    """Raises `InputError` for what is no Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text is not Unicode (character {error.start}); give it as UTF-8") from error
