"""What all requests and answers have in common."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from infini_attention.server.jobs import Outcome
from infini_attention.server.writing import Sampling

DEFAULT_NEW_TOKENS = 512


class Wire(BaseModel):
    """A request. A field that is not named here is refused, and so is a value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Answer(BaseModel):
    """What comes back."""


def _no_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"is no Unicode text (character {error.start}); give it as UTF-8") from error
    return text


def _whole(number: Any) -> Any:
    """In JSON, 8.0 is an integer."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


WHOLE = BeforeValidator(_whole)  # behind the bounds, or the description would not name them
Text = Annotated[str, AfterValidator(_no_surrogates)]
StopText = Annotated[Text, Field(min_length=1, max_length=256)]
NewTokens = Annotated[int, Field(ge=1), WHOLE]
One = Annotated[int, Field(ge=1, le=1), WHOLE]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE]
Zero = Annotated[float, Field(ge=0, le=0)]
SessionName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Letters, digits, dots, dashes, underscores.")
]
MarkName = Annotated[Text, Field(min_length=1, max_length=200, pattern=r"\S")]


class StreamOptions(Wire):
    include_usage: bool | None = Field(None, description="Whether the last chunk says what was used.")


class Chances(Wire):
    """How a reply is chosen."""

    temperature: float | None = Field(None, ge=0, le=2, description="0 always takes the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1, description="The likeliest share to choose from.")

    def sampling(
        self, new_tokens: int, *, temperature: float, stop: tuple[str, ...] = (), seed: int | None = None
    ) -> Sampling:
        """`temperature` where the request names none."""
        heat = temperature if self.temperature is None else self.temperature
        return Sampling(new_tokens, heat, 1.0 if self.top_p is None else self.top_p, seed, stop)


class SeededChances(Chances):
    seed: Seed | None = Field(None, description="The same one gives the same reply.")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = Field(
        None, description="Texts that end the reply and are no part of it."
    )

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


MetadataName = Annotated[Text, Field(max_length=64)]
MetadataValue = Annotated[Text, Field(max_length=512)]


class Harmless(Wire):
    """What newer clients of OpenAI send along. Where a field is not supported, it may have the value that changes
    nothing."""

    metadata: Annotated[dict[MetadataName, MetadataValue], Field(max_length=16)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported.")
    tool_choice: Literal["none", "auto"] | None = Field(None, description="Accepted, and of no effect.")
    parallel_tool_calls: bool | None = Field(None, description="Accepted, and of no effect: there are no tools.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="There is one.")
    safety_identifier: Text | None = Field(None, description="Accepted, and of no effect.")
    prompt_cache_key: Text | None = Field(None, description="Accepted, and of no effect: prefixes are always kept.")


class OpenAIRequest(SeededChances):
    """The fields of the older OpenAI requests. What is not supported may have the value that changes nothing."""

    model: Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Zero | None = Field(None, description="Not supported.")
    presence_penalty: Zero | None = Field(None, description="Not supported.")
    user: Text | None = Field(None, description="Accepted, and of no effect.")

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class Account(Answer):
    """Where every token of the stream is."""

    tokens_seen: int = Field(description="All that the model has read.")
    in_window: int = Field(description="Of these, the ones that attention sees exactly.")
    compressed: int = Field(description="Of these, the ones that are in the memory alone.")
    pending: int = Field(description="Written, and read as soon as the stream goes on.")
    dropped: int = Field(description="Lost: none, ever.")
    state_bytes: int = Field(description="Of the whole state, the same after any number of tokens.")

    @classmethod
    def of(cls, *outcomes: Outcome) -> "Account":
        """Of all their streams."""
        return cls(**{name: sum(outcome.account[name] for outcome in outcomes) for name in cls.model_fields})


class PromptDetails(Answer):
    cached_tokens: int = Field(description="Of the prompt, what did not have to be read again.")


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails

    @classmethod
    def of(cls, *outcomes: Outcome) -> "Usage":
        """Of all of them."""
        prompt = sum(outcome.prompt_tokens for outcome in outcomes)
        written = sum(outcome.written_tokens for outcome in outcomes)
        return cls(
            prompt_tokens=prompt,
            completion_tokens=written,
            total_tokens=prompt + written,
            prompt_tokens_details=PromptDetails(cached_tokens=sum(outcome.cached_tokens for outcome in outcomes)),
        )


class ErrorDetail(Answer):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    error: ErrorDetail


class Deleted(Answer):
    id: str
    object: str
    deleted: Literal[True] = True


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request cannot be done as it is.",
        401: "No API key, or none that is known.",
        403: "A page of another site asks, and there are no API keys.",
        404: "There is no such thing, or it belongs to another key.",
        409: "Something else is happening to it.",
        413: "More than this server takes at a time.",
        422: "A field is missing, unknown, or of another kind.",
        429: "More than this key may have.",
        503: "There is no room now; try again after Retry-After seconds.",
    }.items()
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The reply, or its stream."}
}
