"""What the memory of a session holds."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from infini_attention.evaluation.inspection import Reading, default_tokens
from infini_attention.server import jobs
from infini_attention.server.routes_sessions import Name, nothing_read
from infini_attention.server.service import KeyedRoute, Owner, ServiceOf
from infini_attention.server.streams import while_there
from infini_attention.server.wire import ERRORS
from infini_attention.server.wire_memory import MemoryInfo

router = APIRouter(prefix="/v1/sessions/{id}", tags=["sessions"], responses=ERRORS, route_class=KeyedRoute)
Probe = Annotated[bool, Query(description="Whether to let a fork read on, which shows the memory at work.")]


@router.get("/memory")
async def memory(id: Name, request: Request, service: ServiceOf, owner: Owner, probe: Probe = False) -> MemoryInfo:
    """Look at the memory: its six metrics, and figures of each head. The session stays as it is.

    A probe is a pass key and a few thousand tokens of a novel, which a fork reads and is asked about, with its memory
    and without.
    """

    async def work() -> MemoryInfo:
        async with service.engine.place(owner), service.looking:
            session, entry = await service.shelf.get(owner, id)
            if entry is None:
                raise nothing_read(id)
            tokens = default_tokens(session.segment_size) if probe else 0
            reading = Reading(await service.texts.novel(), tokens) if probe else None
            figures = await service.engine.run(jobs.look(session, reading))
            about = {"id": id, "probe_tokens": tokens, "full_kv_bytes": session.full_kv_bytes}
            about |= {"state_bytes": figures["metrics"]["memory_complexity"]["state_bytes"]}
            return MemoryInfo.model_validate(figures | about)

    return await while_there(request, work(), service.metrics)
