"""The application: routes, their errors, and what is counted of each request."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention import __version__
from infini_attention.server import (
    routes_about,
    routes_completions,
    routes_memory,
    routes_reading,
    routes_responses,
    routes_sessions,
    web,
)
from infini_attention.server.errors import add_handlers, too_large
from infini_attention.server.metrics import Metrics
from infini_attention.server.service import Service
from infini_attention.server.settings import ServerSettings

_ABOUT = """A language model that reads without end, behind the API of OpenAI and with sessions of its own.

Nothing is ever cut off: every answer says in `infini` where each token of its stream is."""


def create_app(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ServerSettings) -> FastAPI:
    """The server as an ASGI application.

    Args:
        model: an Infini model. One application uses it alone, from a thread of its own.
        tokenizer: its tokenizer.
        settings: of the server.

    Raises:
        StoreError: a store that cannot be opened.
    """
    service = Service(model, tokenizer, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.close()

    limits = settings.limits
    app = FastAPIOffline(  # a FastAPI that has the files of Swagger UI at hand, for our own /docs
        title="infini-attention",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    add_handlers(app)
    for routes in (
        routes_about,
        routes_completions,
        routes_responses,
        routes_sessions,
        routes_reading,
        routes_memory,
    ):
        app.include_router(routes.router, max_body_size=limits.body_bytes)
    app.include_router(routes_sessions.uploads, max_body_size=limits.upload_bytes)
    web.add_page(app)
    app.add_middleware(_Counting, metrics=service.metrics)
    return app


class _Counting:
    """Counts requests by route, with the status and the time that they took.

    It is the outermost layer, and so the one that gives the answer to bodies that are too large its shape.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, replaced = time.perf_counter(), 500, False

        async def counted(message: Message) -> None:
            nonlocal status, replaced
            if message["type"] == "http.response.start":
                status = message["status"]
                replaced = status == 413 and (b"content-type", b"application/json") not in message["headers"]
                if replaced:
                    await too_large().response()(scope, receive, send)
            if not replaced:
                await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")  # never what was sent: that would be unbounded
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.request_seconds.observe(time.perf_counter() - start)
