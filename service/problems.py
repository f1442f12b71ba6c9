"""How every error looks on the wire: RFC 9457 problems with a code and a hint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

import sqlalchemy.exc
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from redeem.contract import FieldError, Problem
from service.errors import UNAVAILABLE, BadRequest, DatabaseUnavailable, InUse, InvalidRequest, ServiceError

log = structlog.get_logger(__name__)

HINTS = {
    400: BadRequest.hint,
    404: "Check the path against /docs.",
    405: "Allow has the methods of this path; /docs tells what they do.",
    413: "Send a smaller body; files go to PUT /v1/uploads/{id}/content.",
}


def answer(
    problem: Problem, headers: Mapping[str, str] | None = None, members: Mapping[str, int] | None = None
) -> Response:
    body = json.dumps(problem.model_dump(mode="json") | dict(members or {}), ensure_ascii=False)
    return Response(body, problem.status, dict(headers or {}), media_type="application/problem+json")


def refuse(error: ServiceError, request: Request) -> Response:
    """The response that says why."""
    problem = Problem(
        type=error.type,
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=str(error),
        code=error.code,
        hint=error.hint,
        instance=request.url.path,
        request_id=request.state.request_id,
        errors=error.errors,
    )
    return answer(problem, error.headers, error.members)


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""
    app.exception_handler(ServiceError)(_on_service_error)
    app.exception_handler(RequestValidationError)(_on_invalid_request)
    app.exception_handler(HTTPException)(_on_http_exception)
    for kind in UNAVAILABLE:
        app.exception_handler(kind)(_on_database_down)
    app.exception_handler(sqlalchemy.exc.DataError)(_on_unstorable)
    app.exception_handler(sqlalchemy.exc.IntegrityError)(_on_conflict)
    app.exception_handler(Exception)(_on_unexpected)


async def _on_service_error(request: Request, error: ServiceError) -> Response:
    return refuse(error, request)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    # What was sent is not repeated: it may be large, or a secret in the wrong field.
    errors = [FieldError(where=".".join(map(str, e["loc"])), message=e["msg"]) for e in error.errors()]
    return refuse(InvalidRequest("The request does not have the expected form.", errors=errors), request)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    problem = Problem(
        title=status.phrase,
        status=status,
        detail=error.detail,
        code="too_large" if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else status.name.lower(),
        hint=HINTS.get(status, "See /docs."),
        instance=request.url.path,
        request_id=request.state.request_id,
    )
    return answer(problem, headers)


def _methods(request: Request) -> list[str]:
    """All that the path may be asked. Starlette names only those of the first route there."""
    known = request.app.openapi()["paths"].items()
    alike = [methods for path, methods in known if compile_path(path)[0].match(request.url.path)]
    return sorted({method.upper() for methods in alike for method in methods})


async def _on_database_down(request: Request, error: Exception) -> Response:
    log.error("database unavailable", error=type(error).__name__)
    return refuse(DatabaseUnavailable("The database does not answer."), request)


async def _on_unstorable(request: Request, error: Exception) -> Response:
    # PostgreSQL has no way to keep a NUL character in text.
    return refuse(InvalidRequest("The request holds text that the database cannot keep."), request)


async def _on_conflict(request: Request, error: Exception) -> Response:
    # What was looked up at the start of the transaction was deleted before its end.
    return refuse(InUse("What this request names was changed by another one at the same time."), request)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    problem = Problem(
        title="Internal Server Error",
        status=500,
        detail="Something went wrong that this server did not foresee.",
        code="internal_error",
        hint="Try again; if it stays, give the operator the X-Request-Id of this response.",
        instance=request.url.path,
        request_id=request.state.request_id,
    )
    # This one is answered outside the middleware that adds the id.
    return answer(problem, {"X-Request-Id": request.state.request_id})
