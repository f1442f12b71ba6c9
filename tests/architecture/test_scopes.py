"""That every route says what a key must be allowed."""

from __future__ import annotations

from tests.service.operations import OPERATIONS


def test_every_route_behind_the_key_states_one_scope() -> None:
    stated = {f"{operation.method} {operation.path}": operation.scopes for operation in OPERATIONS}
    assert {route: scopes for route, scopes in stated.items() if "/v1/" in route and len(scopes) != 1} == {}


def test_only_these_routes_need_no_key() -> None:
    paths = {operation.path for operation in OPERATIONS if not operation.path.startswith("/v1/")}
    described = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
    assert paths == {"/livez", "/readyz", "/metrics", *described}  # /metrics has a token of its own
