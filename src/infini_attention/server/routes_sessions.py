"""/v1/sessions: streams that are kept by name: made, listed, forked, taken back, carried away and deleted."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from infini_attention.server import jobs
from infini_attention.server.errors import ApiError, not_found, own_files
from infini_attention.server.service import KeyedRoute, Owner, Service, ServiceOf
from infini_attention.server.shelf import Held
from infini_attention.server.streams import while_there
from infini_attention.server.wire import ERRORS, Account, Deleted, SessionName
from infini_attention.server.wire_sessions import (
    Fork,
    Mark,
    NewSession,
    Page,
    Rewind,
    RewindResult,
    SessionInfo,
    SessionList,
)
from infini_attention.sessions import StoredSession

router = APIRouter(prefix="/v1/sessions", tags=["sessions"], responses=ERRORS, route_class=KeyedRoute)
uploads = APIRouter(
    prefix="/v1/sessions", tags=["sessions"], responses=ERRORS, route_class=KeyedRoute
)  # bodies may be larger
Name = Annotated[str, InPath(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Of the session.")]


@router.post("", status_code=201)
async def create(body: NewSession, service: ServiceOf, owner: Owner) -> SessionInfo:
    """A session that has read nothing yet."""
    return info(service, await service.shelf.create(owner, body.id), None)


@router.get("")
async def sessions(page: Annotated[Page, Query()], service: ServiceOf, owner: Owner) -> SessionList:
    """All sessions, the one that was used last coming first."""
    entries: dict[str, StoredSession | None] = dict.fromkeys(await service.shelf.names(owner))
    entries |= {entry.name: entry for entry in await asyncio.to_thread(service.store.sessions, owner=owner)}
    names = sorted(entries, key=lambda name: -(entry.used if (entry := entries[name]) else 0))
    if page.after is not None and page.after not in entries:
        raise not_found("session", page.after)
    first = 0 if page.after is None else names.index(page.after) + 1
    last = first + page.limit
    return SessionList(
        data=[info(service, name, entries[name]) for name in names[first:last]], has_more=last < len(names)
    )


@uploads.post("/restore", status_code=201)
async def restore(
    service: ServiceOf,
    owner: Owner,
    file: Annotated[UploadFile, File(description="A session file, as `download` gives it.")],
    id: Annotated[SessionName | None, Form(description="Of the new session.")] = None,
) -> SessionInfo:
    """A session from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session"

        def copy() -> None:
            with own_files(), path.open("wb") as out:
                while block := file.file.read(1 << 20):
                    out.write(block)

        await asyncio.to_thread(copy)
        name = await service.shelf.restore(owner, path, id)
    return info(service, name, (await service.shelf.get(owner, name))[1])


@router.get("/{id}")
async def show(id: Name, service: ServiceOf, owner: Owner) -> SessionInfo:
    """What is known of a session."""
    return info(service, id, (await service.shelf.get(owner, id))[1])


@router.delete("/{id}")
async def delete(id: Name, service: ServiceOf, owner: Owner) -> Deleted:
    """For good. Forks stay."""
    await service.shelf.delete(owner, id)
    return Deleted(id=id, object="session")


@router.post("/{id}/fork", status_code=201)
async def fork(id: Name, body: Fork, service: ServiceOf, owner: Owner) -> SessionInfo:
    """A second session that stands where this one does; nothing is copied."""
    return info(service, *await service.shelf.fork(owner, id, body.id))


@router.post("/{id}/rewind")
async def rewind(id: Name, body: Rewind, request: Request, service: ServiceOf, owner: Owner) -> RewindResult:
    """Go back to where it was; what came after is gone, but for forks."""

    async def work() -> RewindResult:
        async with service.engine.place(owner), started(service, owner, id) as held:
            again = await service.engine.run(jobs.rewind(held.session, **body.model_dump()))
            if held.session.stats.tokens_read == 0:
                raise ApiError(400, "a session cannot go back to where it had read nothing; make a new one")
            await held.save()
            account = Account(**jobs.account_of(held.session))
            return RewindResult(id=id, tokens_read_again=again, infini=account)

    return await while_there(request, work(), service.metrics)


@router.put("/{id}/marks")
async def mark(id: Name, body: Mark, service: ServiceOf, owner: Owner) -> SessionInfo:
    """Give the place where it stands a name. It stays within reach until the mark is taken off."""
    async with started(service, owner, id) as held:
        await asyncio.to_thread(held.session.mark, body.name)
        return info(service, id, await held.save())


@router.delete("/{id}/marks/{mark:path}")
async def unmark(id: Name, mark: str, service: ServiceOf, owner: Owner) -> SessionInfo:
    """Take a mark off."""
    async with service.shelf.writing(owner, id) as held:
        if mark not in held.session.marks:
            raise not_found("mark", mark)
        held.session.unmark(mark)
        return info(service, id, await held.save())


@router.get(
    "/{id}/download",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "A session file."}},
)
async def download(id: Name, service: ServiceOf, owner: Owner) -> Any:
    """Where it stands, as a file that `restore`, `infini ask` and `infini chat --from` take."""
    session, entry = await service.shelf.get(owner, id)
    if entry is None:
        raise nothing_read(id)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / f"{id}.session"
    try:
        with own_files():
            await asyncio.to_thread(session.save, path)
    except BaseException:
        folder.cleanup()
        raise
    media_type = "application/octet-stream"
    return FileResponse(path, media_type=media_type, filename=path.name, background=BackgroundTask(folder.cleanup))


def info(service: Service, name: str, entry: StoredSession | None) -> SessionInfo:
    segment_size = service.model.config.infini_settings.segment_size
    return SessionInfo.of(name, entry, service.settings.model_name, segment_size, service.state_bytes)


@asynccontextmanager
async def started(service: Service, owner: str, name: str) -> AsyncIterator[Held]:
    """A session to be changed that has read something. Raises `ApiError` for one that has not."""
    async with service.shelf.writing(owner, name) as held:
        if held.session.stats.tokens_read == 0:
            raise nothing_read(name)
        yield held


def nothing_read(name: str) -> ApiError:
    return ApiError(400, f"session {name!r} has read nothing yet: read a text into it first", "nothing_read")
