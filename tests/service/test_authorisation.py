"""The authorisation matrix: every route × who calls × whose object it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import update

from redeem.access import Scope
from service.keys import prefix_of
from service.tables import ApiKey, now
from tests.service.operations import OPERATIONS, Operation
from tests.service.running import Service, problem

PROTECTED = [operation for operation in OPERATIONS if operation.path.startswith("/v1/")]
NAMING = [operation for operation in PROTECTED if "{id}" in operation.path]
EVERY = pytest.mark.parametrize("operation", PROTECTED, ids=str)

MAKERS: dict[str, Callable[[Service], str]] = {
    "uploads": lambda service: service.upload("model"),
    "models": Service.model,
    "bundles": Service.bundle,
    "jobs": lambda service: str(service.job()),
    "webhooks": lambda service: str(service.post("/v1/webhooks", {"url": "https://example.com/"}, 201)["id"]),
}
"""How to make what `/v1/KIND/{id}` names."""
APPENDING = {"Content-Type": "application/partial-upload", "Upload-Offset": "0", "Upload-Complete": "?0"}
CONTENT: dict[str, dict[str, Any]] = {"PATCH /v1/uploads/{id}/content": {"headers": APPENDING}}
"""What a route that names an object must be sent beside, as httpx takes it."""


@pytest.fixture(scope="module")
def bad_keys(service: Service) -> dict[str, str | None]:
    revoked = service.key()
    with service.parts.sessions.begin() as session:
        session.execute(update(ApiKey).where(ApiKey.prefix == prefix_of(revoked)).values(revoked_at=now()))
    return {
        "none": None,
        "empty": "",
        "malformed": "Bearer not-a-key",
        "unknown": f"Bearer {service.key()[:-1]}-",
        "expired": f"Bearer {service.key(expires_at=now() - timedelta(seconds=1))}",
        "revoked": f"Bearer {revoked}",
        "another scheme": f"Basic {service.key()}",
    }


@pytest.fixture(scope="module")
def stranger(service: Service) -> Iterator[Service]:
    with service.as_tenant("stranger") as other:
        yield other


@pytest.fixture(scope="module")
def objects(service: Service) -> dict[str, str]:
    return {kind: make(service) for kind, make in MAKERS.items()}


def send(service: Service, operation: Operation, id: str, headers: dict[str, str]) -> httpx.Response:
    url = service.url + operation.path.format_map({"id": id, "name": "report.json", "delivery": id})
    beside = CONTENT.get(str(operation), {})
    return httpx.request(operation.method, url, **beside | {"headers": beside.get("headers", {}) | headers})


def expect(answer: httpx.Response, status: int, code: str) -> str:
    """What the refusal says in so many words: nothing, in answer to HEAD."""
    if answer.request.method != "HEAD":
        return str(problem(answer, status, code)["detail"])
    assert (answer.status_code, answer.content) == (status, b"")
    return ""


def key_header(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@EVERY
def test_without_a_good_key_every_route_says_the_same(
    service: Service, bad_keys: dict[str, str | None], objects: dict[str, str], operation: Operation
) -> None:
    id = objects.get(operation.path.split("/")[2], "")
    for key in bad_keys.values():
        answer = send(service, operation, id, {} if key is None else {"Authorization": key})
        expect(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")


@EVERY
def test_a_key_without_the_scope_is_told_which_it_lacks(service: Service, operation: Operation) -> None:
    (needed,) = operation.scopes
    others = set(Scope) - {needed, Scope.admin}
    for id in (str(uuid4()), "no id at all"):
        answer = send(service, operation, id, key_header(service.key(scopes=others)))
        told = expect(answer, 403, "missing_scope")
        assert f"`{needed}`" in told or operation.method == "HEAD"
        assert f'scope="{needed}"' in answer.headers["www-authenticate"]


@EVERY
@pytest.mark.parametrize("held", ["that scope", "admin"])
def test_that_scope_alone_is_enough_and_so_is_admin(service: Service, operation: Operation, held: str) -> None:
    scopes = operation.scopes if held == "that scope" else [Scope.admin]
    answer = send(service, operation, str(uuid4()), key_header(service.key(scopes=scopes)))
    assert answer.status_code not in (401, 403), answer.text


@pytest.mark.parametrize("operation", NAMING, ids=str)
def test_anothers_object_is_answered_like_none_at_all(
    service: Service, stranger: Service, objects: dict[str, str], operation: Operation
) -> None:
    theirs, nothing = objects[operation.path.split("/")[2]], str(uuid4())
    header = {"Authorization": stranger.http.headers["authorization"], "X-Request-Id": "0" * 32}
    answers = [send(service, operation, id, header) for id in (theirs, nothing)]
    for answer in answers:
        expect(answer, 404, "not_found")
    assert answers[0].text.replace(theirs, nothing) == answers[1].text
    shown = [{k: v for k, v in a.headers.items() if k not in ("date", "ratelimit")} for a in answers]
    assert shown[0] == shown[1]


def test_strangers_have_changed_nothing(service: Service, objects: dict[str, str]) -> None:
    """After the matrix above: the owner's objects are as they were."""
    found = {kind: service.http.get(f"/v1/{kind}/{id}").json() for kind, id in objects.items()}
    assert {kind: found[kind]["id"] for kind in objects} == objects
    assert (found["jobs"]["state"], found["jobs"]["cancel_requested"]) == ("queued", False)
    assert found["uploads"]["state"] == "complete"
