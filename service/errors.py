"""What the service refuses, and how every error looks on the wire: RFC 9457 problems with a code and a hint.

ServiceError
├── BadRequest             400  the body is no JSON
├── Unauthorized           401  no key, or not a key of this server
├── MissingScope           403  the key may not do this
├── NotFound               404  nothing has that id
├── NoArtifact             404  the job ended without making that file
├── UploadComplete         409  the upload already has its bytes
├── UploadIncomplete       409  the upload has no bytes yet
├── KeyInUse               409  another request with the same Idempotency-Key is under way
├── JobFinished            409  the job ended and cannot be changed any more
├── JobNotFinished         409  the job has not made its files yet
├── TooLarge               413  more bytes than this server takes
├── RangeNotSatisfiable    416  the range asked for lies outside the file
├── InvalidRequest         422  a field is well-formed but wrong
│   ├── UnknownReference        it names a model, bundle or upload that does not exist
│   ├── WrongKind               it names an upload or bundle of the wrong kind or role
│   ├── UnknownMethod           it names a purifier or a detector that this server does not have
│   ├── UnknownArchitecture     it names a paper/… network that this server does not have
│   ├── KeyReused               the Idempotency-Key came with another request before
│   ├── SizeMismatch            the bytes are not as many as announced
│   ├── HashMismatch            the bytes do not have the announced hash
│   └── EmptyUpload             there were no bytes
├── UploadInterrupted      400  the bytes stopped before their end
├── ArtifactLost           500  a recorded file is not in the store
└── DatabaseUnavailable    503  the database does not answer
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import sqlalchemy.exc
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from redeem.contract import FieldError, Problem

log = structlog.get_logger(__name__)


class ServiceError(Exception):
    """Base of every refusal. `code` is stable; the message says what happened and what was expected."""

    status = 500
    code = "service_error"
    hint = ""
    headers: Mapping[str, str] = {}

    def __init__(
        self, detail: str, *, headers: Mapping[str, str] | None = None, errors: list[FieldError] | None = None
    ):
        super().__init__(detail)
        self.headers = {**self.headers, **(headers or {})}
        self.errors = errors or []


class BadRequest(ServiceError):
    status, code = 400, "bad_request"
    hint = "Send a well-formed JSON body with `Content-Type: application/json`."


class Unauthorized(ServiceError):
    status, code = 401, "unauthorized"
    hint = "Send `Authorization: Bearer <key>`; the key made at first start is in the file `key` of the data folder."
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="redeem"'}


class MissingScope(ServiceError):
    status, code = 403, "missing_scope"
    hint = "Use a key with that scope; `redeem keys create`, where the server runs, makes one."


class NotFound(ServiceError):
    status, code = 404, "not_found"
    hint = "Check the id, and that it came from this server."


class NoArtifact(ServiceError):
    status, code = 404, "no_artifact"
    hint = "GET /v1/jobs/{id} tells how the job ended, and GET /v1/jobs/{id}/artifacts which files there are."


class UploadComplete(ServiceError):
    status, code = 409, "upload_complete"
    hint = "Use the upload as it is, or open a new one with POST /v1/uploads."


class UploadIncomplete(ServiceError):
    status, code = 409, "upload_incomplete"
    hint = "Send its bytes with PUT /v1/uploads/{id}/content first."


class KeyInUse(ServiceError):
    status, code = 409, "key_in_use"
    hint = "Send the request again in a moment: it gets what the first one makes."
    headers: Mapping[str, str] = {"Retry-After": "1"}


class JobFinished(ServiceError):
    status, code = 409, "job_finished"
    hint = "Submit a new job."


class JobNotFinished(ServiceError):
    status, code = 409, "job_not_finished"
    hint = "Wait with GET /v1/jobs/{id}?wait=30, or follow GET /v1/jobs/{id}/events."


class TooLarge(ServiceError):
    status, code = 413, "too_large"
    hint = "Send a smaller file, or have the operator raise REDEEM_MAX_UPLOAD_BYTES."


class RangeNotSatisfiable(ServiceError):
    status, code = 416, "range_not_satisfiable"
    hint = "Ask for a range within the file's size; Content-Range tells it."


class InvalidRequest(ServiceError):
    status, code = 422, "invalid_request"
    hint = "Correct the fields that `errors` names; /docs describes them."


class UnknownReference(InvalidRequest):
    code = "unknown_reference"
    hint = "Create it first, and send the id that the server gave."


class WrongKind(InvalidRequest):
    code = "wrong_kind"
    hint = "Models come from uploads of kind `model`; clean and triggered bundles from uploads of kind `bundle`."


class UnknownMethod(InvalidRequest):
    code = "unknown_method"
    hint = "GET /v1/purifiers and GET /v1/detectors list what this server has."


class UnknownArchitecture(InvalidRequest):
    code = "unknown_architecture"
    hint = "GET /v1/architectures lists what this server can load."


class KeyReused(InvalidRequest):
    code = "key_reused"
    hint = "Make a new Idempotency-Key for each new resource."


class SizeMismatch(InvalidRequest):
    code = "size_mismatch"
    hint = "The upload is still open: send the whole file again, or open a new upload with the right size."


class HashMismatch(InvalidRequest):
    code = "hash_mismatch"
    hint = "The upload is still open: send the file again, or open a new upload with the right SHA-256."


class EmptyUpload(InvalidRequest):
    code = "empty_upload"
    hint = "Send the file as the raw body of the request, as `curl -T` does."


class UploadInterrupted(ServiceError):
    status, code = 400, "upload_interrupted"
    hint = "The upload is still open: send the whole file again."


class ArtifactLost(ServiceError):
    status, code = 500, "artifact_lost"
    hint = "The operator should check the store; a new job makes the file again."


class DatabaseUnavailable(ServiceError):
    status, code = 503, "database_unavailable"
    hint = "Try again shortly; GET /readyz tells what this server is missing."
    headers: Mapping[str, str] = {"Retry-After": "5"}


UNAVAILABLE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError)
"""What SQLAlchemy raises when the database is down, locked or out of connections."""

HINTS = {
    400: BadRequest.hint,
    404: "Check the path against /docs.",
    405: "Allow has the methods of this path; /docs tells what they do.",
    413: "Send a smaller body; files go to PUT /v1/uploads/{id}/content.",
}


def answer(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    body = problem.model_dump_json()
    return Response(body, problem.status, dict(headers or {}), media_type="application/problem+json")


def refuse(error: ServiceError, request: Request) -> Response:
    """The response that says why."""
    problem = Problem(
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=str(error),
        code=error.code,
        hint=error.hint,
        instance=request.url.path,
        request_id=request.state.request_id,
        errors=error.errors,
    )
    return answer(problem, error.headers)


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""
    app.exception_handler(ServiceError)(_on_service_error)
    app.exception_handler(RequestValidationError)(_on_invalid_request)
    app.exception_handler(HTTPException)(_on_http_exception)
    for kind in UNAVAILABLE:
        app.exception_handler(kind)(_on_database_down)
    app.exception_handler(sqlalchemy.exc.DataError)(_on_unstorable)
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
