"""/v1/completions and /v1/chat/completions: each request brings its whole prompt; of that, prefixes are kept."""

import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request

from infini_attention.server import jobs
from infini_attention.server.errors import ApiError
from infini_attention.server.jobs import Outcome
from infini_attention.server.service import Owner, Service, ServiceOf
from infini_attention.server.shelf import new_name
from infini_attention.server.streams import Done, Emit, Work, frame, streamed, while_there
from infini_attention.server.texts import Prompt
from infini_attention.server.wire import DEFAULT_NEW_TOKENS, ERRORS, EVENTS, Account, OpenAIRequest, Usage
from infini_attention.server.wire_completions import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Completion,
    CompletionRequest,
    Delta,
    Reply,
    TextChoice,
)

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)
_LAST = b"data: [DONE]\n\n"


@router.post("/completions", response_model=Completion, responses=EVENTS)
async def completions(body: CompletionRequest, request: Request, service: ServiceOf, owner: Owner) -> Any:
    """Go on from a text."""
    _check(service, body)
    new_tokens = service.check_new_tokens(body.max_tokens, 16, "max_tokens")

    async def prompt() -> Prompt:
        if isinstance(body.prompt, str):
            return await service.texts.of_text(service.new_session(), body.prompt)
        if isinstance(body.prompt[0] if body.prompt else 0, str):
            return await service.texts.of_text(service.new_session(), str(body.prompt[0]))
        return await service.texts.of_tokens([int(token) for token in body.prompt])

    async def work(emit: Emit) -> Outcome:
        async with service.engine.place(owner):
            return await _complete(service, owner, body, await prompt(), new_tokens, emit)

    about = _about(service, "cmpl")

    def chunk(text: str, finish: str | None = None, **more: Any) -> bytes:
        choices = [TextChoice(text=text, finish_reason=finish)]
        return frame(Completion(**about, choices=choices, **more).model_dump(exclude_none=False))

    def frames(event: str | Done) -> Iterator[bytes]:
        if isinstance(event, str):
            yield chunk(event)
            return
        yield chunk("", event.result.finish, infini=Account(**event.result.account))
        if body.include_usage:
            yield frame(Completion(**about, choices=[], usage=Usage.of(event.result)).model_dump())
        yield _LAST

    if body.stream:
        return await _streamed(request, service, work, frames)
    outcome = await while_there(request, work(_ignore), service.metrics)
    choices = [TextChoice(text=outcome.text, finish_reason=outcome.finish)]
    return Completion(**about, choices=choices, usage=Usage.of(outcome), infini=Account(**outcome.account))


@router.post("/chat/completions", response_model=ChatCompletion, responses=EVENTS)
async def chat_completions(body: ChatRequest, request: Request, service: ServiceOf, owner: Owner) -> Any:
    """Reply to a conversation. One that is sent again, with more behind it, is not read again."""
    _check(service, body)
    if body.max_tokens not in (None, body.max_completion_tokens or body.max_tokens):
        message = "max_tokens is an older name of max_completion_tokens, and says otherwise; leave one of them out"
        raise ApiError(400, message, "invalid_value", param="max_tokens")
    asked = body.max_completion_tokens or body.max_tokens
    param = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    new_tokens = service.check_new_tokens(asked, DEFAULT_NEW_TOKENS, param)

    async def work(emit: Emit) -> Outcome:
        async with service.engine.place(owner):
            prompt = await service.texts.of_messages([message.plain for message in body.messages])
            return await _complete(service, owner, body, prompt, new_tokens, emit)

    about, begun = _about(service, "chatcmpl"), False

    def chunk(delta: Delta, finish: str | None = None, **more: Any) -> bytes:
        choices = [ChunkChoice(delta=delta, finish_reason=finish)]
        return frame(ChatChunk(**about, choices=choices, **more).model_dump(exclude_none=True))

    def frames(event: str | Done) -> Iterator[bytes]:
        nonlocal begun
        if not begun:
            yield chunk(Delta(role="assistant", content=""))
        begun = True
        if isinstance(event, str):
            yield chunk(Delta(content=event))
            return
        yield chunk(Delta(), event.result.finish, infini=Account(**event.result.account))
        if body.include_usage:
            yield frame(ChatChunk(**about, choices=[], usage=Usage.of(event.result)).model_dump(exclude_none=True))
        yield _LAST

    if body.stream:
        return await _streamed(request, service, work, frames)
    outcome = await while_there(request, work(_ignore), service.metrics)
    choices = [ChatChoice(message=Reply(content=outcome.text), finish_reason=outcome.finish)]
    return ChatCompletion(**about, choices=choices, usage=Usage.of(outcome), infini=Account(**outcome.account))


def _check(service: Service, body: OpenAIRequest) -> None:
    service.check_model(body.model)
    if body.stream_options is not None and not body.stream:
        message = "stream_options is for streams: leave it out, or set stream to true"
        raise ApiError(400, message, "invalid_value", param="stream_options")


async def _complete(
    service: Service, owner: str, body: OpenAIRequest, prompt: Prompt, new_tokens: int, emit: Emit
) -> Outcome:
    sampling = body.sampling(new_tokens, temperature=1.0, stop=body.stops, seed=body.seed)
    writer = service.writer(sampling, prompt, emit)
    piece = service.settings.limits.piece_tokens
    steps = jobs.complete(service.session_at, prompt, writer, service.prefixes, owner, piece)
    outcome = await service.engine.run(steps)
    service.count(outcome)
    return outcome


async def _streamed(request: Request, service: Service, work: Work, frames: Any) -> Any:
    return await streamed(request, work, frames, service.settings.keep_alive_seconds, service.metrics)


def _about(service: Service, kind: str) -> dict[str, Any]:
    return {"id": new_name(kind), "created": int(time.time()), "model": service.settings.model_name}


def _ignore(event: Any) -> None:
    pass
