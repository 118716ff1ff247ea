"""All that the routes of a server share."""

import asyncio
import copy
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.models.states import empty_states
from infini_attention.server.engine import Engine
from infini_attention.server.errors import ApiError
from infini_attention.server.jobs import Outcome
from infini_attention.server.keys import Keys, owner_of
from infini_attention.server.metrics import Metrics
from infini_attention.server.prefixes import Prefixes
from infini_attention.server.records import Records
from infini_attention.server.response_shelf import ResponseShelf
from infini_attention.server.settings import ServerSettings
from infini_attention.server.shelf import Shelf
from infini_attention.server.texts import Prompt, Texts
from infini_attention.server.writing import Sampling, Writer
from infini_attention.sessions import HistorySettings, Session, SessionStore, Snapshot, StoreLimits

_NO_HISTORY = HistorySettings(max_bytes=0)


class Service:
    """A model with everything that serves it.

    Args:
        model: an Infini model, from now on used by the engine's thread alone.
        tokenizer: its tokenizer.
        settings: of the server.

    Raises:
        StoreError: a store that cannot be opened.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ServerSettings) -> None:
        limits = settings.limits
        self.model, self.settings, self.started = model, settings, int(time.time())
        self.tokenizer = copy.deepcopy(tokenizer)  # of the engine's thread
        self.state_bytes = sum(state.nbytes for state in empty_states(model))
        self.keys, self.metrics = Keys(settings.keys), Metrics()
        self.engine = Engine(model, limits, self.metrics)
        self.looking = asyncio.Lock()  # at a memory: one at a time
        self.texts = Texts(model, tokenizer, limits.prompt_tokens)
        self.prefixes = Prefixes(settings.room.prefix_bytes, self.metrics)
        store_limits = StoreLimits(limits.key_bytes, limits.sessions)
        self.store = SessionStore(settings.store, blobs=settings.blobs, limits=store_limits)
        # In the same place, but counted for themselves: their owners have names that no key has.
        self.responses = SessionStore(settings.store, limits=StoreLimits(limits.key_bytes, limits.responses))
        self.records = Records(settings.store / "records.sqlite")
        self.replies = ResponseShelf(self.responses, self.records, self.new_session)
        self.shelf = Shelf(
            self.store, self.records, self.new_session, settings.room, self.metrics, max_sessions=limits.sessions
        )

    def start(self) -> None:
        """Puts the store in order, as a killed process may have left it, and begins to work."""
        self.store.sweep()
        self.replies.sweep([owner_of(key) for key in self.settings.keys] or [""])
        self.engine.start()

    def close(self) -> None:
        self.engine.close()
        self.texts.close()
        self.records.close()
        self.store.close()
        self.responses.close()

    def new_session(self, history: HistorySettings = _NO_HISTORY) -> Session:
        """One that has read nothing."""
        return Session(self.model, self.tokenizer, history=history, **self._names)

    def session_at(self, snapshot: Snapshot | None) -> Session:
        """One that stands at a snapshot, and keeps no history."""
        if snapshot is None:
            return self.new_session()
        return Session.from_snapshot(snapshot, self.model, self.tokenizer, history=_NO_HISTORY, **self._names)

    @property
    def _names(self) -> dict[str, str]:
        settings = self.settings
        return {"name": settings.source or settings.model_name, "adapter": settings.adapter}

    def writer(self, sampling: Sampling, prompt: Prompt, emit: Callable[[str], Any]) -> Writer:
        """That counts when the reply begins."""
        start, begun = time.perf_counter(), False

        def first(text: str) -> None:
            nonlocal begun
            if not begun:
                self.metrics.first_token_seconds.observe(time.perf_counter() - start)
            begun = True
            emit(text)

        return Writer(self.tokenizer, sampling, prompt.ends, first)

    def count(self, outcome: Outcome) -> None:
        self.metrics.prompt_tokens.inc(outcome.prompt_tokens)
        self.metrics.cached_tokens.inc(outcome.cached_tokens)
        self.metrics.written_tokens.inc(outcome.written_tokens)

    def check_model(self, name: str) -> None:
        """Raises `ApiError` for another model's name."""
        if name != self.settings.model_name:
            raise ApiError(
                404,
                f"there is no model {name!r:.120} here; expected {self.settings.model_name!r}",
                "model_not_found",
                param="model",
            )

    def check_new_tokens(self, asked: int | None, default: int, param: str) -> int:
        """How many tokens a reply may have. Raises `ApiError` for more than anyone may ask for."""
        most = self.settings.limits.new_tokens
        if asked is not None and asked > most:
            raise ApiError(400, f"{param} must be at most {most} here; got {asked}", "invalid_value", param=param)
        return min(default, most) if asked is None else asked


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


_bearer = HTTPBearer(auto_error=False, description="An API key; needed where the server was given some.")


def owner_of_request(request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """Whose sessions the request may see. Raises `ApiError` without a key that is known."""
    service = service_of(request)
    if not service.keys:
        _check_origin(request, service.settings.hosts)
    owner = service.keys.owner(sent.credentials if sent else None)
    if owner is None:
        raise ApiError(
            401,
            "an API key that this server knows is needed: send it as `Authorization: Bearer KEY`",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return owner


def _check_origin(request: Request, hosts: tuple[str, ...]) -> None:
    """Where nobody is asked for a key, a page from elsewhere in somebody's browser must not get in."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    strange = origin is not None and origin.partition("://")[2] != host
    if strange or (hosts and request.url.hostname not in hosts):
        raise ApiError(
            403, "a page from another site cannot use this server: give it API keys if it should", "forbidden_origin"
        )


class KeyedRoute(APIRoute):
    """Asks for the key before anything of the body is read: a stranger's upload would fill the disk first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def asked(request: Request) -> Response:
            owner_of_request(request, await _bearer(request))
            return await handle(request)

        return asked


ServiceOf = Annotated[Service, Depends(service_of)]
Owner = Annotated[str, Depends(owner_of_request)]
