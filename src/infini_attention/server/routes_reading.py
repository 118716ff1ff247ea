"""Reading into a session, and asking it: what needs the model, and may take a while."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile

from infini_attention.data.text import read_blocks
from infini_attention.server import jobs
from infini_attention.server.jobs import Outcome
from infini_attention.server.routes_sessions import Name, uploads
from infini_attention.server.service import KeyedRoute, Owner, Service, ServiceOf
from infini_attention.server.streams import Done, Emit, Work, frame, streamed, while_there
from infini_attention.server.texts import Prompt, check_text
from infini_attention.server.wire import DEFAULT_NEW_TOKENS, ERRORS, EVENTS, Account, Usage
from infini_attention.server.wire_sessions import Ask, GoOn, ReadResult, ReadText, Say, SessionReply
from infini_attention.sessions import ReadStats, Session

router = APIRouter(prefix="/v1/sessions/{id}", tags=["sessions"], responses=ERRORS, route_class=KeyedRoute)
_LAST = b"data: [DONE]\n\n"
_PROGRESS_SECONDS = 0.25
_REMEDY = "send its encoding in the form field encoding, for instance latin-1, or save the file as UTF-8"
PromptOf = Callable[[Session, str], Awaitable[Prompt]]


@router.post("/text", response_model=ReadResult, responses=EVENTS)
async def read_text(id: Name, body: ReadText, request: Request, service: ServiceOf, owner: Owner) -> Any:
    """Read a text to its end. A client that goes away meanwhile leaves the session as it was."""
    check_text(body.text)
    return await _read(id, [body.text], body.scored, bool(body.stream), request, service, owner)


@uploads.post("/{id}/file", response_model=ReadResult, responses=EVENTS)
async def read_file(
    id: Name,
    request: Request,
    service: ServiceOf,
    owner: Owner,
    file: Annotated[UploadFile, File(description="A text.")],
    encoding: Annotated[str, Form(max_length=40)] = "utf-8",
    scored: Annotated[bool, Form()] = False,
    stream: Annotated[bool, Form()] = False,
) -> Any:
    """Read a text file of any length to its end. A client that goes away meanwhile leaves the session as it was."""
    blocks = read_blocks(file.file, encoding, name=(file.filename or "the file")[:100], remedy=_REMEDY)
    return await _read(id, blocks, scored, stream, request, service, owner)


async def _read(
    name: str, blocks: Iterable[str], scored: bool, stream: bool, request: Request, service: Service, owner: str
) -> Any:
    engine, metrics, start = service.engine, service.metrics, time.perf_counter()

    async def work(emit: Emit) -> ReadResult:
        async with engine.place(owner), service.shelf.writing(owner, name) as held:
            session, before = held.session, held.session.stats
            steps = jobs.read_text(
                session,
                blocks,
                service.settings.limits.piece_tokens,
                scored=scored,
                progress=_now_and_then(emit, session),
                stopping=lambda: engine.draining,
            )
            complete = await engine.run(steps)
            await held.save()
            tokens = session.stats.tokens_read - before.tokens_read
            metrics.read_tokens.inc(tokens)
            return ReadResult(
                id=name,
                tokens_read=tokens,
                complete=complete,
                seconds=time.perf_counter() - start,
                bits_per_byte=session.stats.bits_per_byte if scored else None,
                infini=Account(**jobs.account_of(session)),
            )

    def frames(event: dict[str, Any] | Done) -> Iterator[bytes]:
        yield frame(event.result.model_dump() if isinstance(event, Done) else event)
        if isinstance(event, Done):
            yield _LAST

    return await _answered(request, service, work, frames, stream)


def _now_and_then(emit: Emit, session: Session) -> Callable[[ReadStats], None]:
    """Tells how far it is, but no more often than anyone can look."""
    start = told = time.perf_counter()
    before = session.stats

    def progress(stats: ReadStats) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told >= _PROGRESS_SECONDS:
            told, tokens = now, stats.tokens_read - before.tokens_read
            emit(
                {
                    "object": "session.progress",
                    "tokens_read": tokens,
                    "text_bytes": stats.text_bytes - before.text_bytes,
                    "tokens_per_second": tokens / (now - start),
                    "tokens_seen": stats.tokens_read,
                    "state_bytes": session.state_bytes,
                    "full_kv_bytes": session.full_kv_bytes,
                }
            )

    return progress


@router.post("/ask", response_model=SessionReply, responses=EVENTS)
async def ask(id: Name, body: Ask, request: Request, service: ServiceOf, owner: Owner) -> Any:
    """Ask about what was read. The session stays as it is."""
    return await _from_fork(id, body, service.texts.of_question, body.question, request, service, owner)


async def _from_fork(
    name: str, body: Ask | GoOn, prompt_of: PromptOf, text: str, request: Request, service: Service, owner: str
) -> Any:
    async def work(emit: Emit) -> SessionReply:
        async with service.engine.place(owner):
            session, _ = await service.shelf.get(owner, name)
            prompt = await prompt_of(session, text)
            writer = _writer(service, body, prompt, emit)
            piece = service.settings.limits.piece_tokens
            return _reply(service, name, await service.engine.run(jobs.ask(session, prompt.token_ids, writer, piece)))

    return await _answered(request, service, work, _reply_frames, bool(body.stream))


@router.post("/complete", response_model=SessionReply, responses=EVENTS)
async def complete(id: Name, body: GoOn, request: Request, service: ServiceOf, owner: Owner) -> Any:
    """Write on from a prompt, as one who has read what the session has read. The session stays as it is."""
    return await _from_fork(id, body, service.texts.of_text, body.prompt, request, service, owner)


@router.post("/chat", response_model=SessionReply, responses=EVENTS)
async def chat(id: Name, body: Say, request: Request, service: ServiceOf, owner: Owner) -> Any:
    """Say something. Message and reply stay in the session; only what is new is read."""

    async def work(emit: Emit) -> SessionReply:
        async with service.engine.place(owner), service.shelf.writing(owner, id) as held:
            prompt = await service.texts.of_message(held.session, body.message)
            writer = _writer(service, body, prompt, emit)
            piece = service.settings.limits.piece_tokens
            outcome = await service.engine.run(jobs.say(held.session, prompt.token_ids, writer, piece))
            await held.save()
            return _reply(service, id, outcome)

    return await _answered(request, service, work, _reply_frames, bool(body.stream))


def _writer(service: Service, body: Ask | GoOn | Say, prompt: Prompt, emit: Emit) -> Any:
    new_tokens = service.check_new_tokens(body.max_new_tokens, DEFAULT_NEW_TOKENS, "max_new_tokens")
    sampling = body.sampling(new_tokens, temperature=0.0, stop=(*body.stops, *prompt.stop), seed=body.seed)
    return service.writer(sampling, prompt, emit)


def _reply(service: Service, name: str, outcome: Outcome) -> SessionReply:
    service.count(outcome)
    return SessionReply(
        id=name,
        text=outcome.text,
        finish_reason=outcome.finish,
        usage=Usage.of(outcome),
        infini=Account(**outcome.account),
    )


def _reply_frames(event: str | Done) -> Iterator[bytes]:
    if isinstance(event, str):
        yield frame({"object": "session.delta", "text": event})
    else:
        yield frame(event.result.model_dump())
        yield _LAST


async def _answered(request: Request, service: Service, work: Work, frames: Any, stream: bool) -> Any:
    """The whole answer, or a stream of it."""
    if stream:
        return await streamed(request, work, frames, service.settings.keep_alive_seconds, service.metrics)
    return await while_there(request, work(lambda event: None), service.metrics)
