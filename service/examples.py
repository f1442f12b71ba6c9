"""An example of every body that a client sends, for /docs: values of `openapi_examples`."""

from __future__ import annotations

from typing import Any

Examples = dict[str, Any]

_ID = "01a220ce-7e2f-72e7-9dad-3a881c2fcc8f"
_OTHER = "01a220ce-7eb3-716f-a864-f06da1bb9252"
_THIRD = "01a220ce-7ed2-75ba-9501-4fb2d43b6caf"

UPLOAD: Examples = {
    "model": {"value": {"kind": "model", "filename": "suspect.safetensors"}},
    "checked": {
        "summary": "Refused unless just these bytes come",
        "value": {
            "kind": "bundle",
            "filename": "clean.zip",
            "size": 1_048_576,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
    },
}
MODEL: Examples = {
    "small images": {
        "value": {
            "upload": _ID,
            "architecture": {"name": "paper/resnet18", "num_classes": 10},
            "preprocessing": {"size": [32, 32], "mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]},
            "labels": {"origin": "model zoo"},
        }
    },
    "torchvision": {
        "value": {
            "upload": _ID,
            "architecture": {"name": "torchvision/resnet50"},
            "preprocessing": {"size": [224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        }
    },
}
BUNDLE: Examples = {
    "clean": {"value": {"upload": _ID, "role": "clean"}},
    "triggered": {
        "summary": "Stamped images under their true labels, and where the trigger leads",
        "value": {"upload": _ID, "role": "triggered", "target": 0},
    },
}
JOB: Examples = {
    "defaults": {"value": {"model": _ID, "clean": _OTHER}},
    "everything": {
        "value": {
            "model": _ID,
            "clean": _OTHER,
            "triggered": _THIRD,
            "purifier": {"name": "sage", "options": {"beta": 300}},
            "detectors": [{"name": "neural_cleanse"}, {"name": "strip"}],
            "policy": {"max_mpa_drop": 0.02, "max_asr": 0.1},
            "seed": 7,
            "labels": {"commit": "4a31edc"},
        }
    },
}
WEBHOOK: Examples = {
    "every end": {"value": {"url": "https://ci.example.com/hooks/redeem"}},
    "named by jobs": {
        "summary": "Told only of jobs that name it",
        "value": {"url": "https://ci.example.com/hooks/redeem", "events": []},
    },
}
