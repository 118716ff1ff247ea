"""Requests and answers of /v1/sessions."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from infini_attention.server.wire import (
    WHOLE,
    Account,
    Answer,
    MarkName,
    NewTokens,
    SeededChances,
    SessionName,
    Text,
    Usage,
    Wire,
)
from infini_attention.sessions import StoredSession


class NewSession(Wire):
    id: SessionName | None = Field(None, description="One that nobody can guess, unless it is said.")


class Page(BaseModel):
    """Of a list. Everything in an address is text, so that numbers come as such."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: str | None = Field(None, description="The last id of the page before.")


class Fork(Wire):
    id: SessionName | None = Field(None, description="Of the fork; one that nobody can guess, unless it is said.")


class ReadText(Wire):
    text: Annotated[Text, Field(min_length=1)]
    scored: bool = Field(False, description="Whether to say how well the model foretold the text.")
    stream: bool | None = Field(None, description="Whether to say how far it is.")


class _Asked(SeededChances):
    max_new_tokens: NewTokens | None = Field(None, description="512 unless it is said.")
    stream: bool | None = None


class Ask(_Asked):
    question: Annotated[Text, Field(min_length=1)]


class GoOn(_Asked):
    prompt: Annotated[Text, Field(min_length=1)]


class Say(_Asked):
    message: Annotated[Text, Field(min_length=1)]


class ToToken(Wire):
    to_token: Annotated[int, Field(ge=0), WHOLE]


class ToMark(Wire):
    to_mark: MarkName


class ToTurn(Wire):
    to_turn: Annotated[int, Field(ge=0), WHOLE]


Rewind = ToToken | ToMark | ToTurn


class Mark(Wire):
    name: MarkName


class PlaceInfo(Answer):
    """A place that the session can go back to without reading anything again."""

    tokens: int
    turn: int | None = Field(description="How many messages were replied to, where the next one begins here.")
    marks: list[str]


class SessionInfo(Answer):
    id: str
    object: Literal["session"] = "session"
    model: str
    revision: int = Field(description="How often it was saved.")
    created: float | None
    used: float | None
    turns: int = Field(description="Messages of a chat that were replied to.")
    marks: dict[str, int] = Field(description="Tokens before each mark.")
    places: list[PlaceInfo]
    bytes: int = Field(description="In the store; what it shares with others counts here too.")
    infini: Account

    @classmethod
    def of(
        cls, name: str, entry: StoredSession | None, model: str, segment_size: int, state_bytes: int
    ) -> "SessionInfo":
        """Of what the store says; None for a session that has read nothing."""
        places = entry.places if entry else ()
        tokens = entry.place.tokens if entry else 0
        in_window = tokens % segment_size
        compressed = tokens - in_window
        return cls(
            id=name,
            model=model,
            revision=entry.revision if entry else 0,
            created=entry.created if entry else None,
            used=entry.used if entry else None,
            turns=entry.place.turns if entry else 0,
            marks={mark: place.tokens for place in places for mark in place.marks},
            places=[PlaceInfo(tokens=place.tokens, turn=place.opens, marks=list(place.marks)) for place in places],
            bytes=entry.nbytes if entry else 0,
            infini=Account(
                tokens_seen=tokens,
                in_window=in_window,
                compressed=compressed,
                pending=0,
                dropped=tokens - in_window - compressed,
                state_bytes=state_bytes if tokens else 0,
            ),
        )


class SessionList(Answer):
    object: Literal["list"] = "list"
    data: list[SessionInfo]
    has_more: bool


class ReadResult(Answer):
    id: str
    object: Literal["session.read"] = "session.read"
    tokens_read: int = Field(description="Of this text.")
    complete: bool = Field(description="Not if the server was stopped meanwhile; what was read before is kept.")
    seconds: float
    bits_per_byte: float | None
    infini: Account


class SessionReply(Answer):
    id: str
    object: Literal["session.reply"] = "session.reply"
    text: str
    finish_reason: str
    usage: Usage
    infini: Account


class RewindResult(Answer):
    id: str
    object: Literal["session.rewind"] = "session.rewind"
    tokens_read_again: int
    infini: Account
