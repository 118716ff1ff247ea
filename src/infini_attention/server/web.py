"""The pages at / and /docs: files that a browser gets as they are, and that may fetch nothing from elsewhere."""

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "page"
# Nothing inline, nothing from elsewhere, no frame around it; what a model writes could not run if it got in.
_RULES = {
    "default-src": "'none'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
}
# Swagger UI makes markup of its own, with styles and pictures in it.
_RULES_OF_DOCS = _RULES | {"img-src": "'self' data:", "style-src": "'self' 'unsafe-inline'"}
del _RULES_OF_DOCS["require-trusted-types-for"]


def _headers(rules: Mapping[str, str]) -> dict[str, str]:
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in rules.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",  # asked for again each time: a page never talks to a newer server
    }


HEADERS = _headers(_RULES)


def add_page(app: FastAPI) -> None:
    """The page at /, the description of the API at /docs, and their files below /page."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(FOLDER / "docs.html", headers=_headers(_RULES_OF_DOCS))

    app.mount("/page", _Files(directory=FOLDER), name="page")


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
