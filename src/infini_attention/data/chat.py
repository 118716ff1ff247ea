"""Questions and turns of a conversation as tokens."""

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from infini_attention.errors import ModelError

# What a model without a chat template goes on from; its answer ends with the line.
PLAIN_QUESTION = "\n\nQuestion: {question}\nAnswer:"

# A turn is rendered behind this exchange, in place of the conversation so far, which is not kept.
_QUESTION, _ANSWER = "Is it so?", "It is so, indeed."


class ChatTemplate:
    """The turns of a conversation as tokens, each rendered by itself and yet as it stands in the whole conversation.

    A conversation is `first(message)`, a reply, `closing`, and then as often as you like `following(message)`, a reply,
    `closing`: the tokens of the template applied to all of it at once, with the replies as the model wrote them.

    Args:
        tokenizer: one with a chat template.

    Raises:
        ModelError: there is no chat template; in all methods: one that renders a turn differently, once others follow.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                "the model has no chat template: expected one beside its tokenizer; take an instruct model such as "
                "smollm2-135m, or use `infini ask` or `infini generate`"
            )
        self.tokenizer = tokenizer

    def first(self, message: str) -> list[int]:
        """A message that begins a conversation, with the system prompt that the template may put before it."""
        return self._encode(self._render(message))

    def following(self, message: str) -> list[int]:
        """A message after a closed reply."""
        whole = self._render(_QUESTION, _ANSWER, message)
        return self._added(self._closed_exchange(whole), whole)

    @property
    def closing(self) -> list[int]:
        """What stands between a reply and the next message, whether the model has ended its reply or not."""
        whole = self._render(_QUESTION, _ANSWER, _QUESTION)
        closed = self._closed_exchange(whole)
        return self._added(closed.removesuffix(self._closing_text()), closed)

    @property
    def end_tokens(self) -> set[int]:
        """The special token, if there is one, with which the template ends a reply."""
        special = self.tokenizer.added_tokens_decoder
        return {
            token for token in self._encode(self._closing_text())[:1] if token in special and special[token].special
        }

    def check_stable(self) -> None:
        """Compares a conversation of several turns with the template applied to it at once."""
        whole = self._render(_QUESTION, _ANSWER, _QUESTION, _ANSWER, _QUESTION)
        before, _, _ = whole.partition(_ANSWER)
        reply = self._added(self._render(_QUESTION), before + _ANSWER)
        turn = [*reply, *self.closing, *self.following(_QUESTION)]
        if self._encode(whole) != [*self.first(_QUESTION), *turn, *turn]:
            raise _unstable("a third turn changes the tokens of those before it")

    def check_reply(self, message: str, reply: str) -> None:
        """Raises `ModelError` where the template would say a reply differently, once it has been said."""
        said = self._render(message, reply, _QUESTION)[len(self._render(message)) :]
        if not said.lstrip().startswith(reply.strip()):
            raise _unstable("it changes what the model has replied, as some do with a model's thinking")

    def _closed_exchange(self, whole: str) -> str:
        """The part of `whole` that is the exchange in front of the last message."""
        asked = self._render(_QUESTION)
        before, _, after = whole.partition(_ANSWER)
        closing = self._closing_text()
        # Some templates put a space before a reply that their prompt lacks: the model writes it.
        if not before.startswith(asked) or before[len(asked) :].strip() or not after.startswith(closing):
            raise _unstable("a second turn changes the text of the first")
        return before + _ANSWER + closing

    def _closing_text(self) -> str:
        _, found, closing = self._render(_QUESTION, _ANSWER).rpartition(_ANSWER)
        return closing if found else ""

    def _render(self, *texts: str) -> str:
        """The template applied to messages of user and assistant in turn; after one of the user, a reply is due."""
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        try:
            return str(
                self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(texts) % 2 == 1)
            )
        except TemplateError as error:
            raise ModelError(
                f"the chat template refuses a conversation of user and assistant ({error}); set another one as "
                "tokenizer.chat_template"
            ) from error

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _added(self, before: str, whole: str) -> list[int]:
        """The tokens of `whole` after those of its beginning `before`."""
        known, ids = self._encode(before), self._encode(whole)
        if ids[: len(known)] != known:
            raise _unstable("its tokens join across the end of a turn")
        return ids[len(known) :]


def question_tokens(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """A question behind a text, as `ask` puts it: a turn in the chat template, or "Question: ... Answer:" without one.

    Raises:
        ModelError: a chat template that fails.
    """
    if tokenizer.chat_template:
        return ChatTemplate(tokenizer).first(question)
    return list(tokenizer(PLAIN_QUESTION.format(question=question), add_special_tokens=False)["input_ids"])


def answer_ends(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer."""
    ends = ChatTemplate(tokenizer).end_tokens if tokenizer.chat_template else set()
    return ends | ({tokenizer.eos_token_id} - {None})


def _unstable(reason: str) -> ModelError:
    return ModelError(
        f"the chat template cannot be applied turn by turn: {reason}, and a stream cannot take back what it has read; "
        "set one without this as tokenizer.chat_template, or ask each question by itself with `ask`"
    )
