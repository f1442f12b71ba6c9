from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.service.running import ARCHITECTURE, PREPROCESSING, Service, problem


def described(upload: str, **more: Any) -> dict[str, Any]:
    return {"upload": upload, "architecture": ARCHITECTURE, "preprocessing": PREPROCESSING, **more}


def test_a_model_says_what_its_upload_holds(service: Service) -> None:
    upload = service.upload("model", b"weights")
    answer = service.http.post("/v1/models", json=described(upload, labels={"team": "vision"}))
    model = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/models/{model['id']}"
    assert (model["upload"], model["filename"], model["size"]) == (upload, "file", 7)
    assert model["sha256"] == service.http.get(f"/v1/uploads/{upload}").json()["sha256"]
    assert model["architecture"]["name"] == "paper/resnet18"
    assert model["labels"] == {"team": "vision"}
    assert service.http.get(f"/v1/models/{model['id']}").json() == model
    assert model in service.http.get("/v1/models").json()["items"]


@pytest.mark.parametrize(("role", "target"), [("clean", None), ("triggered", 3), ("triggered", [0, 1, 2])])
def test_a_bundle_has_a_role(service: Service, role: str, target: Any) -> None:
    body = {"upload": service.upload("bundle"), "role": role, "target": target}
    bundle = service.post("/v1/bundles", body, 201)
    assert (bundle["role"], bundle["target"]) == (role, target)
    assert service.http.get(f"/v1/bundles/{bundle['id']}").json() == bundle
    assert bundle in service.http.get("/v1/bundles").json()["items"]


def test_only_a_complete_upload_of_the_right_kind_serves(service: Service) -> None:
    unsent = service.post("/v1/uploads", {"kind": "model", "filename": "m"}, 201)["id"]
    problem(service.http.post("/v1/models", json=described(unsent)), 409, "upload_incomplete")
    problem(service.http.post("/v1/models", json=described(service.upload("bundle"))), 422, "wrong_kind")
    problem(service.http.post("/v1/models", json=described(str(uuid4()))), 422, "unknown_reference")
    body = {"upload": service.upload("model"), "role": "clean"}
    problem(service.http.post("/v1/bundles", json=body), 422, "wrong_kind")


@pytest.mark.parametrize("path", ["uploads", "models", "bundles", "jobs"])
def test_what_is_not_there_is_not_found(service: Service, path: str) -> None:
    problem(service.http.get(f"/v1/{path}/{uuid4()}"), 404, "not_found")
    problem(service.http.get(f"/v1/{path}/7"), 422, "invalid_request")


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("body.architecture.name", {"architecture": {"name": "evil/network"}}),
        ("body.architecture.num_classes", {"architecture": {"name": "paper/resnet18", "num_classes": 1}}),
        ("body.preprocessing", {"preprocessing": {**PREPROCESSING, "mean": [0.5]}}),
        ("body.labels", {"labels": {str(i): "" for i in range(33)}}),
        ("body.surprise", {"surprise": 1}),
    ],
)
def test_a_malformed_model_is_told_where_it_is_wrong(service: Service, where: str, change: dict[str, Any]) -> None:
    refused = problem(service.http.post("/v1/models", json=described(str(uuid4()), **change)), 422, "invalid_request")
    assert where in [error["where"] for error in refused["errors"]]


def test_numbers_that_are_none_are_refused(service: Service) -> None:
    body = described(str(uuid4()), architecture={**ARCHITECTURE, "options": {"width": "@"}})
    for number in ("NaN", "Infinity", "1e999"):
        text = service.http.build_request("POST", "/v1/models", json=body).content.replace(b'"@"', number.encode())
        answer = service.http.post("/v1/models", content=text, headers={"Content-Type": "application/json"})
        assert problem(answer, 422, "invalid_request")["errors"]


def test_a_network_that_the_paper_does_not_have_is_refused_early(service: Service) -> None:
    body = described(service.upload("model"), architecture={"name": "paper/resnet19"})
    problem(service.http.post("/v1/models", json=body), 422, "unknown_architecture")


def test_pages_follow_each_other_without_gaps(service: Service) -> None:
    made = [service.bundle() for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = service.http.get("/v1/bundles", params=query).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        service.bundle()  # what comes meanwhile shifts nothing
    assert seen[:5] == made[::-1]


@pytest.mark.parametrize("cursor", ["?", "AAAA", "é", "A" * 22 + "=", "' OR 1=1"])
def test_a_made_up_cursor_is_refused(service: Service, cursor: str) -> None:
    problem(service.http.get("/v1/bundles", params={"cursor": cursor}), 422, "invalid_request")


@pytest.mark.parametrize("limit", ["0", "201", "x"])
def test_a_page_has_a_sensible_length(service: Service, limit: str) -> None:
    problem(service.http.get("/v1/bundles", params={"limit": limit}), 422, "invalid_request")
