"""Requests and answers of /v1/sessions."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from infini_attention.server.wire import (
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


class Rewind(Wire):
    """To one of three kinds of place."""

    to_token: Annotated[int, Field(ge=0)] | None = None
    to_mark: MarkName | None = None
    to_turn: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Rewind":
        if len(self.place) != 1:
            raise ValueError(f"give one of to_token, to_mark and to_turn; got {len(self.place)} of them")
        return self

    @property
    def place(self) -> dict[str, int | str]:
        places = {"to_token": self.to_token, "to_mark": self.to_mark, "to_turn": self.to_turn}
        return {name: place for name, place in places.items() if place is not None}


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
