"""What the server is and how it is doing: models, health, metrics."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field

from infini_attention import __version__
from infini_attention.models.states import full_kv_bytes
from infini_attention.server.service import Owner, Service, ServiceOf
from infini_attention.server.wire import ERRORS, Answer

router = APIRouter()


class Model(Answer):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "infini-attention"
    rule: str
    segment_size: int
    chat: bool = Field(description="Whether it has a chat template.")
    full_kv_bytes_per_token: int = Field(description="What full attention would keep for a token.")


class Models(Answer):
    object: Literal["list"] = "list"
    data: list[Model]


class Health(Answer):
    status: Literal["ok", "stopping"]
    version: str
    model: str


_SOME: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (401, 404, 422)}


@router.get("/v1/models", tags=["OpenAI"], responses=_SOME)
async def models(service: ServiceOf, owner: Owner) -> Models:
    """The model that is served."""
    return Models(data=[_model(service)])


@router.get("/v1/models/{model:path}", tags=["OpenAI"], responses=_SOME)
async def model(model: Annotated[str, Path()], service: ServiceOf, owner: Owner) -> Model:
    """What is known of a model."""
    service.check_model(model)
    return _model(service)


@router.get("/health", tags=["server"])
async def health(service: ServiceOf) -> Health:
    """Whether the server takes requests."""
    status: Literal["ok", "stopping"] = "stopping" if service.engine.draining else "ok"
    return Health(status=status, version=__version__, model=service.settings.model_name)


@router.get(
    "/metrics",
    tags=["server"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, 401: ERRORS[401]},
)
async def metrics(service: ServiceOf, owner: Owner) -> Response:
    """Figures for Prometheus."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _model(service: Service) -> Model:
    settings = service.model.config.infini_settings
    return Model(
        id=service.settings.model_name,
        created=service.started,
        rule=settings.rule,
        segment_size=settings.segment_size,
        chat=bool(service.texts.tokenizer.chat_template),
        full_kv_bytes_per_token=full_kv_bytes(service.model, 1),
    )
