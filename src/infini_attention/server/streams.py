"""Answers that come piece by piece, and clients that go away before they have them."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from infini_attention.errors import InfiniError
from infini_attention.server.errors import ApiError, as_api_error
from infini_attention.server.metrics import Metrics

T = TypeVar("T")
Emit = Callable[[Any], None]  # from any thread
Work = Callable[[Emit], Coroutine[Any, Any, Any]]

_log = logging.getLogger(__name__)
_KEEP_ALIVE = format_sse_event(comment="still at work")
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Done:
    """The last event of a stream."""

    result: Any


class ClientGoneError(ApiError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__(499, "the client has gone away", "client_gone")


def frame(data: Any, event: str | None = None) -> bytes:
    """One event of a stream; `data` becomes JSON."""
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=event)


async def follow(work: Work, keep_alive: float) -> AsyncGenerator[Any, None]:
    """What `work` emits, None after each `keep_alive` seconds of silence, and its result as `Done`.

    Closing the generator cancels the work. What waits here is bounded by the work: a reply has only so many tokens.
    """
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Any]()
    end = object()

    def emit(event: Any) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    task = asyncio.create_task(work(emit))
    task.add_done_callback(lambda task: events.put_nowait(end))
    try:
        while True:
            try:
                event = await asyncio.wait_for(events.get(), keep_alive)
            except TimeoutError:
                yield None
                continue
            if event is end:
                yield Done(task.result())
                return
            yield event
    finally:
        task.cancel()


async def streamed(
    request: Request, work: Work, frames: Callable[[Any], Iterable[bytes]], keep_alive: float, metrics: Metrics
) -> Response:
    """A stream of events; what goes wrong before the first of them has a status of its own.

    Args:
        frames: of an event that `work` emits, or of `Done`.
    """
    events = follow(work, keep_alive)
    try:
        first = await while_there(request, anext(events), metrics)
    except BaseException:
        await events.aclose()
        raise

    async def body() -> AsyncGenerator[bytes, None]:
        event, whole = first, False
        try:
            async with aclosing(events):
                while True:
                    for part in (_KEEP_ALIVE,) if event is None else frames(event):
                        yield part
                    if isinstance(event, Done):
                        break
                    event = await anext(events)
            whole = True
        except Exception as error:
            whole = True
            if not isinstance(error, InfiniError | ApiError):
                _log.error("a stream failed", exc_info=error)
            yield frame(as_api_error(error).body())
        finally:
            if not whole:
                metrics.disconnects.inc()

    return EventSourceResponse(body(), headers=_HEADERS)


async def while_there(request: Request, awaited: Awaitable[T], metrics: Metrics) -> T:
    """The result of `awaited`; it is cancelled when the client goes away, and then this raises `ClientGoneError`."""
    task, gone = asyncio.ensure_future(awaited), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            metrics.disconnects.inc()
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.wait({task, gone})


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, side by side; where one fails, the others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
