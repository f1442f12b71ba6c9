"""What the service refuses, each with a code and a hint. `service.problems` says how that looks on the wire.

ServiceError
├── BadRequest             400  the body is no JSON
├── Unauthorized           401  no key, or not a key of this server
│   └── InvalidToken            a token of the issuer is not good (oidc.py)
├── MissingScope           403  the key may not do this
├── UnknownTenant          403  the token names no tenant of this server (oidc.py)
├── NotFound               404  nothing has that id
│   ├── NoSuchTenant            an operator named a tenant that there is not (key_admin.py)
│   └── UnknownKey              an operator named a key that there is not (key_admin.py)
├── NoArtifact             404  the job ended without making that file
├── BadUploadHeader        400  Upload-Offset, -Complete or -Length is missing, or makes no sense
├── TooSlow                408  the bytes came more slowly than this server waits for
├── UploadComplete         409  the upload already has its bytes
├── UploadIncomplete       409  the upload has no bytes yet
├── UploadInUse            409  a model or a bundle is made of it
├── MismatchingOffset      409  the bytes do not follow those that are there
├── KeyInUse               409  another request with the same Idempotency-Key is under way
├── JobFinished            409  the job ended and cannot be changed any more
├── WebhookDisabled        409  the webhook gets nothing any more
├── JobNotFinished         409  the job has not made its files yet
├── InUse                  409  something else names what is to be deleted
├── Deleted                410  it was deleted, before or while it was asked for
├── TooLarge               413  more bytes than this server takes
├── WrongMediaType         415  the body is not of the type that is taken there
├── RangeNotSatisfiable    416  the range asked for lies outside the file
├── InvalidRequest         422  a field is well-formed but wrong
│   ├── UnknownReference        it names a model, bundle or upload that does not exist
│   ├── WrongKind               it names an upload or bundle of the wrong kind or role
│   ├── UnknownMethod           it names a purifier or a detector that this server does not have
│   ├── UnknownDeviceClass      it asks for a class of workers that this server does not have
│   ├── UnknownArchitecture     it names a paper/… network that this server does not have
│   ├── WebhookForbidden        its URL leads where this server does not post to
│   ├── KeyReused               the Idempotency-Key came with another request before
│   ├── SizeMismatch            the bytes are not as many as announced
│   ├── BadTenant               an operator named a new tenant badly (key_admin.py)
│   ├── KeyEnded                an operator replaces a key that works no longer (key_admin.py)
│   ├── HashMismatch            the bytes do not have the announced hash
│   └── EmptyUpload             there were no bytes
├── TooManyUploads         429  as many uploads as a key may send at once are under way
├── RateLimited            429  too many requests in this minute
├── JobQuotaExceeded       429  too many jobs of the tenant wait
├── StorageQuotaExceeded   403  the tenant stores as much as it may
├── WebhookQuotaExceeded   403  the tenant has as many webhooks as it may
├── UploadInterrupted      400  the bytes stopped before their end
├── ArtifactLost           500  a recorded file is not in the store
├── DatabaseUnavailable    503  the database does not answer
├── NotSqlite                   the database is not a file that could be copied (backup.py)
├── NoDatabase                  there is none to copy (backup.py)
├── BackupUnwritable            the copy cannot be written where it should (backup.py)
├── NotABackup                  what should be restored is no database of Redeem (backup.py)
├── DatabaseDamaged             … or is not whole (backup.py)
├── DatabaseInUse               a server runs on what should be replaced (backup.py)
├── MigrationBlocked            somebody else holds what should be migrated (migrate.py)
├── NewerDatabase               a newer release migrated it (migrate.py)
├── IssuerUnavailable      503  the issuer of tokens does not give its keys (oidc.py)
└── InsufficientStorage    507  the disk of the store is nearly full
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy.exc

from redeem.contract import FieldError


class ServiceError(Exception):
    """Base of every refusal. `code` is stable; the message says what happened and what was expected."""

    status = 500
    code = "service_error"
    hint = ""
    type = "about:blank"
    headers: Mapping[str, str] = {}

    def __init__(
        self,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[FieldError] | None = None,
        members: Mapping[str, int] | None = None,
    ):
        super().__init__(detail)
        self.headers = {**self.headers, **(headers or {})}
        self.errors = errors or []
        self.members = members or {}
        """Fields of the problem that its `type` defines."""


class BadRequest(ServiceError):
    status, code = 400, "bad_request"
    hint = "Send a well-formed JSON body with `Content-Type: application/json`."


class Unauthorized(ServiceError):
    status, code = 401, "unauthorized"
    hint = "Send `Authorization: Bearer <key>`; the key made at first start is in the file `key` of the data folder."
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="redeem"'}


class MissingScope(ServiceError):
    status, code = 403, "missing_scope"
    hint = "Use a key or token with that scope; `redeem keys create`, where the server runs, makes such a key."


class NotFound(ServiceError):
    status, code = 404, "not_found"
    hint = "Check the id, and that it came from this server."


class NoArtifact(ServiceError):
    status, code = 404, "no_artifact"
    hint = "GET /v1/jobs/{id} tells how the job ended, and GET /v1/jobs/{id}/artifacts which files there are."


class BadUploadHeader(ServiceError):
    status, code = 400, "bad_upload_header"
    hint = "HEAD /v1/uploads/{id}/content tells the Upload-Offset; Upload-Complete is ?1 with the last bytes, else ?0."


class TooSlow(ServiceError):
    status, code = 408, "too_slow"
    hint = "What came is kept: ask for Upload-Offset with HEAD, and go on from there over a better line."
    headers: Mapping[str, str] = {"Connection": "close"}


class UploadComplete(ServiceError):
    status, code = 409, "upload_complete"
    hint = "Use the upload as it is, or open a new one with POST /v1/uploads."


class UploadIncomplete(ServiceError):
    status, code = 409, "upload_incomplete"
    hint = "Send its bytes with PUT /v1/uploads/{id}/content first."


class UploadInUse(ServiceError):
    status, code = 409, "upload_in_use"
    hint = "What is made of it needs its bytes; leave it where it is."


class MismatchingOffset(ServiceError):
    status, code = 409, "mismatching_upload_offset"
    hint = "Go on from `expected-offset`; HEAD /v1/uploads/{id}/content tells it too."
    type = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"


class KeyInUse(ServiceError):
    status, code = 409, "key_in_use"
    hint = "Send the request again in a moment: it gets what the first one makes."
    headers: Mapping[str, str] = {"Retry-After": "1"}


class JobFinished(ServiceError):
    status, code = 409, "job_finished"
    hint = "Submit a new job."


class WebhookDisabled(ServiceError):
    status, code = 409, "webhook_disabled"
    hint = "Mend the endpoint, then POST /v1/webhooks/{id}/enable."


class JobNotFinished(ServiceError):
    status, code = 409, "job_not_finished"
    hint = "Wait with GET /v1/jobs/{id}?wait=30, or follow GET /v1/jobs/{id}/events."


class InUse(ServiceError):
    status, code = 409, "in_use"
    hint = "Delete first what names it: jobs name models and bundles, and these name uploads."


class Deleted(ServiceError):
    status, code = 410, "deleted"
    hint = "It is gone for good; make it anew, with a new Idempotency-Key."


class TooLarge(ServiceError):
    status, code = 413, "too_large"
    hint = "Send a smaller file, or have the operator raise REDEEM_MAX_UPLOAD_BYTES."


class WrongMediaType(ServiceError):
    status, code = 415, "wrong_media_type"
    hint = "Send the bytes as they are, with `Content-Type: application/partial-upload`."
    headers: Mapping[str, str] = {"Accept-Patch": "application/partial-upload"}


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


class UnknownDeviceClass(InvalidRequest):
    code = "unknown_device_class"
    hint = "Name one of those, or leave `device_class` out; the operator names them in REDEEM_DEVICE_CLASSES."


class UnknownMethod(InvalidRequest):
    code = "unknown_method"
    hint = "GET /v1/purifiers and GET /v1/detectors list what this server has."


class UnknownArchitecture(InvalidRequest):
    code = "unknown_architecture"
    hint = "GET /v1/architectures lists what this server can load."


class WebhookForbidden(InvalidRequest):
    code = "webhook_forbidden"
    hint = "Give an https URL with a public address, or have the operator allow its network by REDEEM_WEBHOOK_ALLOW."


class KeyReused(InvalidRequest):
    code = "key_reused"
    hint = "Make a new Idempotency-Key for each new resource."


class SizeMismatch(InvalidRequest):
    code = "size_mismatch"
    type = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length"
    hint = "The upload is still open: send the bytes that were announced, or open a new upload with the right size."


class HashMismatch(InvalidRequest):
    code = "hash_mismatch"
    hint = "The upload is still open: send the file again, or open a new upload with the right SHA-256."


class EmptyUpload(InvalidRequest):
    code = "empty_upload"
    hint = "Send the file as the raw body of the request, as `curl -T` does."


class TooManyUploads(ServiceError):
    status, code = 429, "too_many_uploads"
    hint = "Send one file after the other, or have the operator raise REDEEM_UPLOADS_PER_KEY."
    headers: Mapping[str, str] = {"Retry-After": "2"}


class UploadInterrupted(ServiceError):
    status, code = 400, "upload_interrupted"
    hint = "What came is kept: ask for Upload-Offset with HEAD, and go on from there."


class ArtifactLost(ServiceError):
    status, code = 500, "artifact_lost"
    hint = "The operator should check the store; a new job makes the file again."


class DatabaseUnavailable(ServiceError):
    status, code = 503, "database_unavailable"
    hint = "Try again shortly; GET /readyz tells what this server is missing."
    headers: Mapping[str, str] = {"Retry-After": "5"}


class RateLimited(ServiceError):
    status, code = 429, "rate_limited"
    hint = "Wait as long as Retry-After says; with ?wait= or events a job is followed with few requests."


class JobQuotaExceeded(ServiceError):
    status, code = 429, "job_quota_exceeded"
    hint = "Submit again when jobs of yours have begun, or have the operator raise REDEEM_MAX_QUEUED_JOBS."
    headers: Mapping[str, str] = {"Retry-After": "60"}


class StorageQuotaExceeded(ServiceError):
    status, code = 403, "storage_quota_exceeded"
    hint = "Delete what is not needed any more, or have the operator raise REDEEM_MAX_STORED_BYTES."


class WebhookQuotaExceeded(ServiceError):
    status, code = 403, "webhook_quota_exceeded"
    hint = "Delete a webhook that is not needed any more, or have the operator raise REDEEM_MAX_WEBHOOKS."


class InsufficientStorage(ServiceError):
    status, code = 507, "insufficient_storage"
    hint = "Have the operator make room, or lower REDEEM_MIN_FREE_BYTES; what came of the upload is kept."
    headers: Mapping[str, str] = {"Connection": "close"}


UNAVAILABLE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError)
"""What SQLAlchemy raises when the database is down, locked or out of connections."""
