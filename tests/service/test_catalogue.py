from __future__ import annotations

from redeem.architectures import ARCHITECTURES
from redeem.options import DETECTOR_OPTIONS, PURIFIER_OPTIONS
from tests.service.running import Service


def test_methods_come_with_the_schema_of_their_options(service: Service) -> None:
    for path, options in (("purifiers", PURIFIER_OPTIONS), ("detectors", DETECTOR_OPTIONS)):
        methods = service.http.get(f"/v1/{path}").json()
        assert [method["name"] for method in methods] == list(options)
        for method in methods:
            assert method["summary"]
            assert method["options_schema"] == options[method["name"]].model_json_schema()


def test_architectures_come_with_their_options(service: Service) -> None:
    listed = {entry["name"]: entry["options"] for entry in service.http.get("/v1/architectures").json()}
    assert listed == ARCHITECTURES
    assert "width" in listed["paper/resnet18"]
