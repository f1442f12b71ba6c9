"""What a stage worked out, in a form that outlives the worker: facts and tensors in one safetensors blob.

A stage that finds its result kept from an earlier attempt does not run again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from obstore.store import ObjectStore
from safetensors.torch import load, save
from torch import Tensor

from redeem.report import Artifact
from service.store import CorruptBlob, get_bytes
from worker.stages.artifact import store_artifact
from worker.stages.errors import StoreDamaged

AGAIN = "Submit the job again, and have the operator check the disk."


@dataclass(frozen=True)
class Kept:
    """`facts` is what JSON can say, `tensors` what it cannot."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


def write_kept(store: ObjectStore, name: str, kept: Kept) -> Artifact:
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in kept.tensors.items()}
    content = save(tensors, metadata={"facts": json.dumps(kept.facts)})
    return store_artifact(store, name, "application/octet-stream", content)


def read_kept(store: ObjectStore, sha256: str) -> Kept:
    """Raises StoreDamaged when the blob is gone or altered."""
    try:
        content = get_bytes(store, sha256)
    except FileNotFoundError as error:
        raise StoreDamaged("what a stage of this job kept is no longer in the store", AGAIN) from error
    except CorruptBlob as error:
        raise StoreDamaged("what a stage of this job kept was altered in the store", AGAIN) from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return Kept(json.loads(header["__metadata__"]["facts"]), load(content))
