"""Requests and answers of /v1/completions and /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import Field

from infini_attention.server.wire import (
    WHOLE,
    Account,
    Answer,
    Harmless,
    NewTokens,
    One,
    OpenAIRequest,
    Text,
    Usage,
    Wire,
)

Tokens = list[Annotated[int, WHOLE]]


class CompletionRequest(OpenAIRequest):
    prompt: Text | Tokens | Annotated[list[Text] | list[Tokens], Field(min_length=1)] = Field(
        description="A text, or the tokens of one; or several."
    )
    n: Annotated[int, Field(ge=1, le=128), WHOLE] | None = Field(None, description="Replies to each prompt.")
    max_tokens: NewTokens | None = Field(None, description="16 unless it is said.")
    echo: Literal[False] | None = Field(None, description="Not supported.")
    best_of: One | None = Field(None, description="Not supported.")
    logprobs: None = Field(None, description="Not supported.")
    suffix: None = Field(None, description="Not supported: what was written is not taken back.")

    @property
    def prompts(self) -> list[str | list[int]]:
        """One of each."""
        prompt: Any = self.prompt
        return prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]


class TextPart(Wire):
    type: Literal["text", "input_text", "output_text"]
    text: Text
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=0)] | None = None


class Message(Wire):
    """Of a conversation. What a reply of this server had may be sent back as it was."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class TextFormat(Wire):
    type: Literal["text"]


class ChatRequest(OpenAIRequest, Harmless):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: NewTokens | None = Field(None, description="An older name of max_completion_tokens.")
    max_completion_tokens: NewTokens | None = Field(None, description="512 unless it is said.")
    n: One | None = Field(None, description="One reply for each request.")
    logprobs: Literal[False] | None = Field(None, description="Not supported.")
    response_format: TextFormat | None = Field(None, description="Text alone.")
    store: Literal[False] | None = Field(None, description="Not supported; /v1/responses keeps replies.")
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = Field(None, description="Text alone.")
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(None, description="Not supported.")


class TextChoice(Answer):
    index: int = Field(description="Of a prompt's number times `n`, and on.")
    text: str
    logprobs: None = None
    finish_reason: str | None


class Completion(Answer):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
    infini: Account | None = None


class Reply(Answer):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Answer):
    index: int = 0
    message: Reply
    logprobs: None = None
    finish_reason: str


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    infini: Account


class Delta(Answer):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Answer):
    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None


class ChatChunk(Answer):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    infini: Account | None = None
