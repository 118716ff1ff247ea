"""/v1/completions and /v1/chat/completions: each request brings its whole prompt; of that, prefixes are kept."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from infini_attention.server import jobs
from infini_attention.server.engine import Steps
from infini_attention.server.errors import ApiError
from infini_attention.server.jobs import Outcome
from infini_attention.server.service import KeyedRoute, Owner, Service, ServiceOf
from infini_attention.server.shelf import new_name
from infini_attention.server.streams import Done, Emit, Work, all_of, frame, streamed, while_there
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

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS, route_class=KeyedRoute)
_LAST = b"data: [DONE]\n\n"


@router.post("/completions", response_model=Completion, responses=EVENTS)
async def completions(body: CompletionRequest, request: Request, service: ServiceOf, owner: Owner) -> Any:
    """Go on from a text, or from each of several."""
    _check(service, body)
    new_tokens = service.check_new_tokens(body.max_tokens, 16, "max_tokens")
    n = body.n or 1

    async def work(emit: Emit) -> list[Outcome]:
        def numbered(index: int) -> Emit:
            return lambda event: emit((index, event))

        async with service.engine.place(owner, len(body.prompts) * n):
            prompts = enumerate(await service.texts.of_several(service.new_session(), body.prompts))
            works = [
                _complete(service, owner, body, prompt, new_tokens, [numbered(i * n + copy) for copy in range(n)])
                for i, prompt in prompts
            ]
            return [outcome for outcomes in await all_of(works) for outcome in outcomes]

    about = _about(service, "cmpl")

    def chunk(index: int, text: str, finish: str | None = None, **more: Any) -> bytes:
        choices = [TextChoice(index=index, text=text, finish_reason=finish)]
        return frame(Completion(**about, choices=choices, **more).model_dump(exclude_none=False))

    def frames(event: tuple[int, str | Outcome] | Done) -> Iterator[bytes]:
        if isinstance(event, Done):
            if body.include_usage:
                yield frame(Completion(**about, choices=[], usage=Usage.of(*event.result)).model_dump())
            yield _LAST
            return
        index, said = event
        if isinstance(said, str):
            yield chunk(index, said)
        else:
            yield chunk(index, "", said.finish, infini=Account.of(said))

    if body.stream:
        return await _streamed(request, service, work, frames)
    outcomes = await while_there(request, work(_ignore), service.metrics)
    choices = [TextChoice(index=i, text=each.text, finish_reason=each.finish) for i, each in enumerate(outcomes)]
    return Completion(**about, choices=choices, usage=Usage.of(*outcomes), infini=Account.of(*outcomes))


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
            (outcome,) = await _complete(service, owner, body, prompt, new_tokens, [emit])
            return outcome

    about, begun = _about(service, "chatcmpl"), False

    def chunk(delta: Delta, finish: str | None = None, **more: Any) -> bytes:
        choices = [ChunkChoice(delta=delta, finish_reason=finish)]
        return frame(ChatChunk(**about, choices=choices, **more).model_dump(exclude_none=True))

    def frames(event: str | Outcome | Done) -> Iterator[bytes]:
        nonlocal begun
        if not begun:
            yield chunk(Delta(role="assistant", content=""))
        begun = True
        if isinstance(event, str):
            yield chunk(Delta(content=event))
        elif isinstance(event, Outcome):
            yield chunk(Delta(), event.finish, infini=Account.of(event))
        else:
            if body.include_usage:
                yield frame(ChatChunk(**about, choices=[], usage=Usage.of(event.result)).model_dump(exclude_none=True))
            yield _LAST

    if body.stream:
        return await _streamed(request, service, work, frames)
    outcome = await while_there(request, work(_ignore), service.metrics)
    choices = [ChatChoice(message=Reply(content=outcome.text), finish_reason=outcome.finish)]
    return ChatCompletion(**about, choices=choices, usage=Usage.of(outcome), infini=Account.of(outcome))


def _check(service: Service, body: OpenAIRequest) -> None:
    service.check_model(body.model)
    if body.stream_options is not None and not body.stream:
        message = "stream_options is for streams: leave it out, or set stream to true"
        raise ApiError(400, message, "invalid_value", param="stream_options")


async def _complete(
    service: Service, owner: str, body: OpenAIRequest, prompt: Prompt, new_tokens: int, emits: Sequence[Emit]
) -> list[Outcome]:
    """A reply for each of `emits`, told piece by piece and then whole. The prompt is read once, and counts once."""
    engine, piece = service.engine, service.settings.limits.piece_tokens
    known = service.prefixes, owner
    writers = []
    for copy, emit in enumerate(emits):  # of which none may be as the one before
        seed = None if body.seed is None else body.seed + copy
        sampling = body.sampling(new_tokens, temperature=1.0, stop=body.stops, seed=seed)
        writers.append(service.writer(sampling, prompt, emit))

    async def reply(copy: int, steps: Steps[Outcome]) -> Outcome:
        outcome = await engine.run(steps)
        if copy:
            outcome = replace(outcome, prompt_tokens=0, cached_tokens=0)
        service.count(outcome)
        emits[copy](outcome)
        return outcome

    if len(writers) == 1:
        return [await reply(0, jobs.complete(service.session_at, prompt, writers[0], *known, piece))]
    session, cached = await engine.run(jobs.read_prompt(service.session_at, prompt, *known, piece))
    works = (jobs.reply(session.fork(), cached, writer, *known) for writer in writers)
    return await all_of([reply(copy, steps) for copy, steps in enumerate(works)])


async def _streamed(request: Request, service: Service, work: Work, frames: Any) -> Any:
    return await streamed(request, work, frames, service.settings.keep_alive_seconds, service.metrics)


def _about(service: Service, kind: str) -> dict[str, Any]:
    return {"id": new_name(kind), "created": int(time.time()), "model": service.settings.model_name}


def _ignore(event: Any) -> None:
    pass
