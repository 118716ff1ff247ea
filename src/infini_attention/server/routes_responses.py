"""/v1/responses: conversations that go on from any reply, which is a state of constant size."""

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from infini_attention.server import jobs
from infini_attention.server.errors import ApiError
from infini_attention.server.jobs import Outcome
from infini_attention.server.service import KeyedRoute, Owner, Service, ServiceOf
from infini_attention.server.shelf import new_name
from infini_attention.server.streams import Done, Emit, frame, streamed, while_there
from infini_attention.server.texts import Prompt
from infini_attention.server.wire import DEFAULT_NEW_TOKENS, ERRORS, EVENTS, Account, Deleted
from infini_attention.server.wire_responses import (
    Fetch,
    IncompleteDetails,
    OutputMessage,
    OutputText,
    ResponseBody,
    ResponseRequest,
    ResponseUsage,
    Status,
)
from infini_attention.sessions import Session

router = APIRouter(prefix="/v1/responses", tags=["OpenAI"], responses=ERRORS, route_class=KeyedRoute)
Id = Annotated[str, Path(description="Of the response.")]


@router.post("", response_model=ResponseBody, responses=EVENTS)
async def respond(body: ResponseRequest, request: Request, service: ServiceOf, owner: Owner) -> Any:
    """Reply, at the start of a conversation or after any response that was kept."""
    service.check_model(body.model)
    new_tokens = service.check_new_tokens(body.max_output_tokens, DEFAULT_NEW_TOKENS, "max_output_tokens")
    sampling = body.sampling(new_tokens, temperature=1.0)
    plain = ResponseBody(
        id=new_name("resp"),
        created_at=int(time.time()),
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=new_tokens,
        model=service.settings.model_name,
        output=[],
        previous_response_id=body.previous_response_id,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        metadata=body.metadata or {},
        store=body.store is not False,
    )
    message_id = new_name("msg")

    async def work(emit: Emit) -> ResponseBody:
        async with service.engine.place(owner):
            session, prompt, instructions = await _begun(service, owner, body)
            writer = service.writer(sampling, prompt, emit)
            piece = service.settings.limits.piece_tokens
            outcome = await service.engine.run(jobs.say(session, prompt.token_ids, writer, piece))
            service.count(outcome)
            answer = _ended(plain.model_copy(update={"instructions": instructions}), message_id, outcome)
            if answer.store:
                await service.replies.save(owner, answer.id, session, answer.model_dump())
            return answer

    if not body.stream:
        return await while_there(request, work(lambda event: None), service.metrics)
    frames = _frames(plain, message_id)
    return await streamed(request, work, frames, service.settings.keep_alive_seconds, service.metrics)


@router.get("/{id}")
async def response(id: Id, wanted: Annotated[Fetch, Query()], service: ServiceOf, owner: Owner) -> ResponseBody:
    """A response that was kept."""
    return ResponseBody(**await service.replies.body(owner, id))


@router.get("/{id}/input_items", response_model=None, status_code=404)
async def input_items(id: Id, service: ServiceOf, owner: Owner) -> None:
    """What was said to it: not kept, which the error says. What was read is in the state of the response alone."""
    await service.replies.body(owner, id)
    raise ApiError(
        404,
        f"the input of response {id!r:.120} is not kept: the model has read it, and this server keeps the state behind "
        "it and not its text; keep what you send where you will want it back",
        "input_not_kept",
    )


@router.post("/{id}/cancel", response_model=None, status_code=400)
async def cancel(id: Id, service: ServiceOf, owner: Owner) -> None:
    """Nothing that has an id can be cancelled here, which the error says: there are no responses in the background."""
    await service.replies.body(owner, id)
    raise ApiError(
        400,
        f"response {id!r:.120} has ended: only responses in the background could be cancelled, and this server has "
        "none; to end one that is being written, close its connection",
        "not_cancellable",
    )


@router.delete("/{id}")
async def delete(id: Id, service: ServiceOf, owner: Owner) -> Deleted:
    """For good. Those that go on from it stay."""
    await service.replies.delete(owner, id)
    return Deleted(id=id, object="response")


async def _begun(service: Service, owner: str, body: ResponseRequest) -> tuple[Session, Prompt, str | None]:
    """The session that goes on, what it reads next, and the instructions that it knows."""
    messages = body.messages
    if body.previous_response_id is None:
        if body.instructions:
            messages = [{"role": "system", "content": body.instructions}, *messages]
        return service.new_session(), await service.texts.of_start(messages), body.instructions
    known = (await service.replies.body(owner, body.previous_response_id))["instructions"]
    if body.instructions is not None and body.instructions != known:
        raise ApiError(
            400,
            "the conversation has its instructions from its start, and a memory cannot take them back: leave "
            "instructions out, or start another one",
            "invalid_value",
            param="instructions",
        )
    if [message["role"] for message in messages] != ["user"]:
        raise ApiError(
            400,
            "with previous_response_id, input must be one message of the user: what was said before is known",
            "invalid_value",
            param="input",
        )
    session = await service.replies.session(owner, body.previous_response_id)
    return session, await service.texts.of_message(session, messages[0]["content"]), known


def _ended(plain: ResponseBody, message_id: str, outcome: Outcome) -> ResponseBody:
    whole = outcome.finish == "stop"
    status: Status = "completed" if whole else "incomplete"
    return plain.model_copy(
        update={
            "status": status,
            "incomplete_details": None if whole else IncompleteDetails(),
            "output": [OutputMessage(id=message_id, status=status, content=[OutputText(text=outcome.text)])],
            "usage": ResponseUsage.of(outcome),
            "infini": Account(**outcome.account),
        }
    )


def _frames(plain: ResponseBody, message_id: str) -> Callable[[str | Done], Iterator[bytes]]:
    """The events of a stream, in the order in which OpenAI's clients expect them."""
    number, begun = 0, False
    place = {"item_id": message_id, "output_index": 0, "content_index": 0}

    def event(kind: str, **data: Any) -> bytes:
        nonlocal number
        number += 1
        return frame({"type": f"response.{kind}", "sequence_number": number - 1, **data}, f"response.{kind}")

    def begin() -> Iterator[bytes]:
        yield event("created", response=plain.model_dump())
        yield event("in_progress", response=plain.model_dump())
        empty = OutputMessage(id=message_id, status="in_progress", content=[])
        yield event("output_item.added", output_index=0, item=empty.model_dump())
        yield event("content_part.added", **place, part=OutputText(text="").model_dump())

    def end(answer: ResponseBody) -> Iterator[bytes]:
        (message,) = answer.output
        (part,) = message.content
        yield event("output_text.done", **place, text=part.text, logprobs=[])
        yield event("content_part.done", **place, part=part.model_dump())
        yield event("output_item.done", output_index=0, item=message.model_dump())
        yield event(answer.status, response=answer.model_dump())

    def frames(piece: str | Done) -> Iterator[bytes]:
        nonlocal begun
        if not begun:
            yield from begin()
        begun = True
        if isinstance(piece, str):
            yield event("output_text.delta", **place, delta=piece, logprobs=[])
        else:
            yield from end(piece.result)

    return frames
