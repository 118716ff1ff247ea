"""Requests and answers of /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from infini_attention.server.jobs import Outcome
from infini_attention.server.wire import Account, Answer, Chances, Harmless, NewTokens, Text, Wire
from infini_attention.server.wire_completions import Message, TextFormat

Status = Literal["in_progress", "completed", "incomplete"]


class InputMessage(Message):
    type: Literal["message"] | None = None
    id: Text | None = Field(None, description="Accepted, and of no effect.")
    status: Literal["in_progress", "completed", "incomplete"] | None = Field(None, description="Of no effect.")


class TextSettings(Wire):
    format: TextFormat | None = None


class ResponseRequest(Chances, Harmless):
    model: Text
    input: Annotated[Text, Field(min_length=1)] | Annotated[list[InputMessage], Field(min_length=1)]
    instructions: Text | None = Field(None, description="At the start of a conversation; it remembers them.")
    previous_response_id: Text | None = Field(None, description="Any response that was kept, however old.")
    max_output_tokens: NewTokens | None = Field(None, description="512 unless it is said.")
    store: bool | None = Field(
        None, description="Whether the reply can be continued and fetched; yes unless it is said."
    )
    stream: bool | None = None
    truncation: Literal["disabled"] | None = Field(None, description="Nothing is ever cut off.")
    text: TextSettings | None = Field(None, description="Text alone.")
    include: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported.")
    background: Literal[False] | None = Field(None, description="Not supported.")
    user: Text | None = Field(None, description="Accepted, and of no effect.")

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates take them."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return [message.plain for message in self.input]


class Fetch(BaseModel):
    """How a response is fetched. Everything in an address is text, so that values come as such."""

    model_config = ConfigDict(extra="forbid")

    include: Annotated[list[Any], Field(max_length=0)] = Field(default_factory=list, description="Not supported.")
    stream: Literal["false"] | None = Field(None, description="Not supported: a response comes whole.")
    include_obfuscation: Literal["true", "false"] | None = Field(None, description="Of streams, and of no effect.")


class OutputText(Answer):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)


class OutputMessage(Answer):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputText]


class InputDetails(Answer):
    cached_tokens: int


class OutputDetails(Answer):
    reasoning_tokens: int = 0


class ResponseUsage(Answer):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int

    @classmethod
    def of(cls, outcome: Outcome) -> "ResponseUsage":
        return cls(
            input_tokens=outcome.prompt_tokens,
            input_tokens_details=InputDetails(cached_tokens=outcome.cached_tokens),
            output_tokens=outcome.written_tokens,
            total_tokens=outcome.prompt_tokens + outcome.written_tokens,
        )


class IncompleteDetails(Answer):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseBody(Answer):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    error: None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = False
    previous_response_id: str | None
    temperature: float
    top_p: float
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = Field(default_factory=list)
    truncation: Literal["disabled"] = "disabled"
    text: dict[str, Any] = Field(default_factory=lambda: {"format": {"type": "text"}})
    usage: ResponseUsage | None = None
    metadata: dict[str, str]
    store: bool
    infini: Account | None = None
