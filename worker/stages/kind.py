"""What an uploaded weights file is, told by its content. What is not taken is refused by name, with what to send."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from worker.stages.errors import Refused, TruncatedFile, UnsupportedWeights
from worker.stages.tensor_file import LENGTH, is_tensor_file
from worker.stages.zip_directory import STORED, Member, Rules, check_zip

Kind = Literal["safetensors", "checkpoint"]

CONVERTED = "weights.safetensors"
"""What a child that converts a file of another kind writes."""

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before PyTorch 1.6
HEAD = 512

BEGINNINGS = {
    LEGACY: ("format_legacy_checkpoint", "a checkpoint of PyTorch before 1.6"),
    b"\x80": ("format_pickle", "a plain Python pickle"),
    b"\x89HDF": ("format_keras", "an HDF5 file, as Keras writes it"),
    b"GGUF": ("format_gguf", "a GGUF file"),
    b"\x93NUMPY": ("format_numpy", "a NumPy array"),
    b"\x1f\x8b": ("format_archive", "a gzip archive"),
    b"7z\xbc\xaf": ("format_archive", "a 7z archive"),
    b"\x08": ("format_onnx", "probably an ONNX model, whose architecture is called onnx"),
}
TAR = 257  # where a tar archive says that it is one

MEMBERS = {  # the end of a member's name in a zip, and what has such a member
    "constants.pkl": ("format_torchscript", "a TorchScript program"),
    "archive_format": ("format_exported_program", "an ExportedProgram (.pt2)"),
    "models/model.json": ("format_exported_program", "an ExportedProgram (.pt2)"),
    "model.weights.h5": ("format_keras", "a Keras model"),
    ".npy": ("format_numpy", "NumPy arrays"),
}
RULES = Rules(members=20_000, contents=16 * 2**20, unpacked=2**40)


def kind_of(path: Path) -> Kind:
    """Raises `Refused`, `TruncatedFile` and `UnsupportedWeights`."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, path.stat().st_size - 1))
        last = file.read()
    if not head:
        raise TruncatedFile("the weights file is empty")
    if is_tensor_file(head[: LENGTH + 1]):
        return "safetensors"
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    for beginning, (code, what) in BEGINNINGS.items():
        if head.startswith(beginning):
            raise Refused(code, f"expected a state dict, got {what}")
    if head[TAR : TAR + 5] == b"ustar":
        raise Refused("format_archive", "expected a state dict, got a tar archive")
    if head[:1] in (b"(", b"c", b"]", b"}") and last == b".":  # protocol 0 is of printable characters
        raise Refused("format_pickle", "expected a state dict, got a plain Python pickle")
    if len(head) <= LENGTH:
        raise TruncatedFile(f"the weights file has {len(head)} bytes, less than the shortest safetensors file")
    raise UnsupportedWeights("expected a safetensors file or a PyTorch checkpoint, got something else")


def _kind_of_zip(path: Path) -> Kind:
    members = check_zip(path, RULES)
    for end, (code, what) in MEMBERS.items():
        if any(member.name.endswith(end) for member in members):
            raise Refused(code, f"expected a state dict, got {what}")
    if not any(member.name.endswith("/data.pkl") for member in members):
        raise UnsupportedWeights(
            "expected a safetensors file or a PyTorch checkpoint, got a zip file of something else"
        )
    check_checkpoint(path, members)
    return "checkpoint"


PICKLE_BYTES = 32 * 2**20
SMALL_BYTES = 64
SMALL = ("byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id")


def check_checkpoint(path: Path, members: list[Member]) -> None:
    """That a zip has what `torch.save` writes, and nothing else: stored, one pickle, numbered storages, four notes.
    Raises `Refused`."""
    root = next(member.name for member in members if member.name.endswith("/data.pkl")).removesuffix("data.pkl")
    for member in members:
        shown, name = ascii(member.name[:120]), member.name.removeprefix(root)
        if member.method != STORED:
            raise Refused("checkpoint_compressed", f"{shown} is compressed, and torch.save compresses nothing")
        if name.endswith((".pkl", ".pickle", ".pt", ".pth")) and name != "data.pkl":
            raise Refused("checkpoint_pickles", f"{shown} is a second pickle")
        numbered = name.startswith("data/") and name[5:].isascii() and name[5:].isdecimal()
        if not member.name.startswith(root) or not (numbered or name == "data.pkl" or name in SMALL):
            raise Refused("checkpoint_members", f"{shown} is nothing that torch.save writes")
        if name == "data.pkl" and member.size > PICKLE_BYTES:
            raise Refused("checkpoint_pickle_too_long", f"its pickle has {member.size} bytes, at most {PICKLE_BYTES}")
        if name in SMALL and member.size > SMALL_BYTES:
            raise Refused("checkpoint_members", f"{shown} has {member.size} bytes, at most {SMALL_BYTES}")
        if name == "byteorder" and _content(path, member) not in (b"little", b"big"):
            raise Refused("checkpoint_byteorder", f"its byte order is {_content(path, member)!a}")


def _content(path: Path, member: Member) -> bytes:
    with path.open("rb") as file:
        file.seek(member.data)
        return file.read(member.size)
