"""Sound files, damaged at random: bytes overwritten, put in, taken out, repeated, and the end cut off."""

from __future__ import annotations

import io
import zipfile

import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from tests.hostile.checkpoints import saved


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, kind in enumerate(("PNG", "JPEG", "WEBP")):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (200, 30, 40)).save(picture, kind)
            archive.writestr(f"{number}/image", picture.getvalue())
        archive.writestr("classes.json", '["a", "b", "c"]')
    return file.getvalue()


TENSORS = {"layer.weight": torch.arange(12.0).view(3, 4), "layer.bias": torch.ones(3), "count": torch.tensor(7)}
SOUND = {
    "safetensors": save(TENSORS, {"format": "pt"}),
    "zip": _zip(),
    "checkpoint": saved({"state_dict": TENSORS, "epoch": 3}),
}

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat"]),
        st.one_of(st.integers(0, 300), st.integers(0, 2**14)),  # headers are at the beginning
        st.booleans(),  # from the end, where a zip file has its table of contents
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 8, b"9" * 12, b"{", b'"'])),
    ),
    max_size=6,
)
CUT = st.one_of(st.just(0), st.integers(0, 2**14))


def mutated(content: bytes, edits: list[tuple[str, int, bool, bytes]], cut: int) -> bytes:
    changed = bytearray(content)
    for kind, position, from_end, patch in edits:
        place = position % max(1, len(changed))
        place = len(changed) - place if from_end else place
        end = place + len(patch)
        if kind == "set":
            changed[place:end] = patch[: len(changed) - place]
        elif kind == "insert":
            changed[place:place] = patch
        elif kind == "delete":
            del changed[place:end]
        else:
            changed[place:place] = changed[place:end]
    return bytes(changed[: len(changed) - cut] if cut < len(changed) else changed)
