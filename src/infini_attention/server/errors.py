"""Errors as clients of the OpenAI API expect them: one shape for every status."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from infini_attention.errors import (
    ConflictError,
    InfiniError,
    QuotaError,
    SnapshotError,
    StoreError,
    UnknownSessionError,
)

_log = logging.getLogger(__name__)
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """What a request is refused with.

    Args:
        status: of HTTP.
        message: expected, got, remedy.
        code: for programs.
        param: the field at fault.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def not_found(what: str, name: str) -> ApiError:
    """The same answer for what never was and for what belongs to another key."""
    return ApiError(404, f"there is no {what} {name!r:.120}", f"{what}_not_found")


def busy(message: str) -> ApiError:
    return ApiError(503, message, "overloaded", headers={"Retry-After": "1"})


def too_large() -> ApiError:
    message = "the body is larger than this server takes; send less at a time, or upload it as a file"
    return ApiError(413, message, "request_too_large")


@contextmanager
def own_files() -> Iterator[None]:
    """For work on files of the server's own: what is wrong with them is no mistake of a client's."""
    try:
        yield
    except (OSError, SnapshotError) as error:
        raise StoreError(str(error)) from error


def as_api_error(error: Exception) -> ApiError:
    """What the layers below raise, in the words of HTTP."""
    match error:
        case ApiError():
            return error
        case UnknownSessionError():
            return ApiError(404, str(error), "session_not_found")
        case ConflictError():
            return ApiError(409, str(error), "conflict")
        case QuotaError():
            return ApiError(429, str(error), "insufficient_quota")
        case StoreError():
            _log.error("%s", error)  # it names folders, which are nobody's business
            message = "this server cannot use its disk at the moment: what was stored is not lost, its log says more"
            return ApiError(503, message, "store_unavailable", headers={"Retry-After": "10"})
        case InfiniError():
            return ApiError(400, str(error), "invalid_value")
        case _:
            return ApiError(500, f"the server failed ({type(error).__name__}); its log says more", "internal_error")


def add_handlers(app: FastAPI) -> None:
    """Every error of the application leaves it in the same shape."""

    def api_error(request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 413:
            return too_large().response()
        if isinstance(error.__cause__, OSError):  # an upload that there is no room for
            return as_api_error(StoreError(str(error.__cause__))).response()
        messages = {404: f"there is nothing at {request.url.path:.200}", 405: f"{request.method} is not possible here"}
        codes = {404: "unknown_url", 405: "method_not_allowed"}
        message, headers = messages.get(error.status_code, str(error.detail)), error.headers
        return ApiError(error.status_code, message, codes.get(error.status_code), headers=headers).response()

    def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _invalid(error).response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(InfiniError, api_error)
    app.add_exception_handler(Exception, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)


def _invalid(error: RequestValidationError) -> ApiError:
    """Of all that is wrong, what lies deepest: of something that may have several forms, the nearest one."""
    place, first = max(((_place(each, error.body), each) for each in error.errors()), key=lambda found: len(found[0]))
    param = ".".join(place) or None
    message = {
        "extra_forbidden": "this server does not know this field; leave it out",
        "json_invalid": "the body is not JSON",
    }.get(first["type"], first["msg"])
    got = f" (got {first['input']!r:.80})" if isinstance(first.get("input"), str | int | float | bool) else ""
    return ApiError(422, f"{param}: {message}{got}" if param else message, first["type"], param=param)


def _place(wrong: Mapping[str, Any], body: Any) -> list[str]:
    """The names that lead to a value in what was sent, without those of our own types between them."""
    where, *parts = wrong["loc"]
    if where != "body":
        return [str(part) for part in parts]
    place = []
    for part in parts:
        known = part in body if isinstance(body, Mapping) else isinstance(body, list) and isinstance(part, int)
        if known:
            body = body[part]
        elif not (wrong["type"] == "missing" and part == parts[-1]):
            continue
        place.append(str(part))
    return place
