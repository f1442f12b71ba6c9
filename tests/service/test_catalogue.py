from __future__ import annotations

from redeem.architectures import ARCHITECTURES
from redeem.detector_options import DETECTOR_OPTIONS
from redeem.options import PURIFIER_OPTIONS
from tests.service.running import Service


def test_methods_come_with_the_schema_of_their_options(service: Service) -> None:
    for path, options in (("purifiers", PURIFIER_OPTIONS), ("detectors", DETECTOR_OPTIONS)):
        methods = service.http.get(f"/v1/{path}").json()
        assert [method["name"] for method in methods] == list(options)
        for method in methods:
            assert method["summary"]
            assert method["options_schema"] == options[method["name"]].model_json_schema()


def test_detectors_say_what_they_look_at(service: Service) -> None:
    told = {method["name"]: " ".join(method["summary"].split()) for method in service.http.get("/v1/detectors").json()}
    for name in ("neural_cleanse", "brain_stimulation", "universal_perturbation"):
        assert "the model alone, before and after purification" in told[name]
    for name in ("strip", "sentinet", "activation_clustering"):
        assert "Needs a triggered bundle; looks before and after purification" in told[name]
    for name in ("retuning", "weight_path"):
        assert "after purification only" in told[name]
        assert "neural_cleanse flagged on the suspect" in told[name]


def test_architectures_come_with_their_options(service: Service) -> None:
    listed = {entry["name"]: entry["options"] for entry in service.http.get("/v1/architectures").json()}
    assert listed == ARCHITECTURES
    assert "width" in listed["paper/resnet18"]
