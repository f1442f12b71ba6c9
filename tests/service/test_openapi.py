from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from redeem import contract, webhooks
from service.openapi import document

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_committed_interface_is_the_one_served() -> None:
    assert COMMITTED.read_text() == document(), "docs/openapi.json is of other routes than these: run `make openapi`"


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    paths = json.loads(document())["paths"]
    return [(path, method, told) for path, methods in paths.items() for method, told in methods.items()]


def test_every_json_body_has_examples_that_are_right() -> None:
    shown = 0
    for path, _, told in operations():
        body = told.get("requestBody", {}).get("content", {}).get("application/json")
        if body is None:
            continue
        name = body["schema"]["$ref"].rpartition("/")[2]
        kind = getattr(contract, name, None) or getattr(webhooks, name)
        assert body["examples"], path
        for example in body["examples"].values():
            kind.model_validate_json(json.dumps(example["value"]))
            shown += 1
    assert shown >= 10


def test_every_refusal_is_declared_as_a_problem_with_its_codes() -> None:
    for path, method, told in operations():
        if not path.startswith("/v1/"):
            continue
        refused = {status: answer for status, answer in told["responses"].items() if int(status) >= 400}
        assert {"401", "422", "503"} <= set(refused), (path, method)
        assert ("404" in refused) == ("{id}" in path), (path, method)
        for status, answer in refused.items():
            examples = answer["content"]["application/problem+json"]["examples"]
            assert {str(contract.Problem.model_validate(e["value"]).status) for e in examples.values()} == {status}
