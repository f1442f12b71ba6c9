"""What `torch.save` may write, or seem to have written, and what is sent in its place. Each breaks one rule."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.hostile.zip_files import Part, deflated, zip_file

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def saved(what: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(what, file, **how)
    return file.getvalue()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return file.getvalue()


def members(content: bytes, **changes: bytes | None) -> dict[str, bytes]:
    """Those of a checkpoint, some changed (by what follows the root, with _ for . and /), or left out."""
    with zipfile.ZipFile(io.BytesIO(content)) as read:
        found = {name: read.read(name) for name in read.namelist()}
    for short, changed in changes.items():
        name = next(name for name in found if name.partition("/")[2].replace(".", "_").replace("/", "_") == short)
        if changed is None:
            del found[name]
        else:
            found[name] = changed
    return found


def pickled(body: bytes) -> bytes:
    """A checkpoint whose pickle is written by hand."""
    return archive(members(saved({}), data_pkl=b"\x80\x02" + body + b"."))


class Calls:
    """Calls `function` when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


def calling(canary: Path) -> dict[str, bytes]:
    """Files that make a file when they are unpickled."""
    evil = Calls(Path.touch, canary)
    by_name = b"cposix\nsystem\nX%c\0\0\0%s\x85R" % (len(f"touch {canary}"), f"touch {canary}".encode())
    return {
        "a checkpoint that calls": saved({"a": evil}),
        "a checkpoint that calls in its keys": saved({"state_dict": {"a": torch.ones(1), "b": [evil]}}),
        "a checkpoint that calls by name": pickled(by_name),
        "a checkpoint that imports a way to call": pickled(b"cimportlib\nimport_module\nX\2\0\0\0os\x85R"),
        "a checkpoint with an unknown global at its end": pickled(b"}cbuiltins\neval\n0"),
        "a pickle": pickle.dumps(evil),
        "an old pickle": pickle.dumps(evil, protocol=0),
        "a legacy checkpoint": saved({"a": evil}, _use_new_zipfile_serialization=False),
        "a second pickle": archive({**members(saved(STATE)), "archive/extra.pkl": pickle.dumps(evil)}),
        "a compressed pickle": archive(members(saved({"a": evil})), zipfile.ZIP_DEFLATED),
    }


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        written.addfile(tarfile.TarInfo("a"))
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def scripted() -> bytes:
    """What torch.jit.save writes, as far as its names tell."""
    return archive({**members(saved(STATE)), "archive/constants.pkl": b"\x80\x02).", "archive/code/__torch__.py": b""})


BEFORE: dict[str, tuple[bytes, str]] = {  # refused before torch sees them
    "nothing": (b"", "truncated_file"),
    "seven bytes": (b"abcdefg", "truncated_file"),
    "a script": (b"#!/bin/sh\necho hello\n", "unsupported_weights"),
    "a pickle": (pickle.dumps({"a": 1}), "format_pickle"),
    "an old pickle": (pickle.dumps({"a": 1}, protocol=0), "format_pickle"),
    "a legacy checkpoint": (saved(STATE, _use_new_zipfile_serialization=False), "format_legacy_checkpoint"),
    "TorchScript": (scripted(), "format_torchscript"),
    "an ExportedProgram": (
        archive({"m/archive_format": b"pt2", "m/models/model.json": b"{}"}),
        "format_exported_program",
    ),
    "Keras of old": (b"\x89HDF\r\n\x1a\n" + bytes(50), "format_keras"),
    "Keras": (archive({"config.json": b"{}", "model.weights.h5": b"\x89HDF"}), "format_keras"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(50), "format_gguf"),
    "an array": (b"\x93NUMPY\1\0v\0{'descr': '|O'}", "format_numpy"),
    "arrays": (npz(), "format_numpy"),
    "a tar": (tar(), "format_archive"),
    "a gzip": (b"\x1f\x8b\x08" + bytes(50), "format_archive"),
    "a 7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "format_archive"),
    "some zip": (archive({"a.txt": b"hello"}), "unsupported_weights"),
    "a compressed checkpoint": (archive(members(saved(STATE)), zipfile.ZIP_DEFLATED), "checkpoint_compressed"),
    "a bomb": (
        zip_file(Part(b"a/data.pkl"), Part(b"a/data/0", deflated(bytes(2**24)), method=8)),
        "zip_ratio",
    ),
    "two storages in one place": (
        zip_file(Part(b"a/data.pkl"), Part(b"a/data/0", bytes(99)), Part(b"a/data/1", central={"begin": 41})),
        "zip_mismatch",
    ),
    "encryption": (zip_file(Part(b"a/data.pkl", flags=1)), "zip_encrypted"),
    "a path upwards": (archive({**members(saved(STATE)), "archive/../../x": b""}), "zip_name"),
    "a second pickle": (archive({**members(saved(STATE)), "archive/extra.pkl": b"."}), "checkpoint_pickles"),
    "another root": (archive({**members(saved(STATE)), "other/data/0": b""}), "checkpoint_members"),
    "code": (archive({**members(saved(STATE)), "archive/code.py": b""}), "checkpoint_members"),
    "a long note": (archive(members(saved(STATE), version=b"3" * 65)), "checkpoint_members"),
    "a byte order of the middle": (archive(members(saved(STATE), byteorder=b"middle")), "checkpoint_byteorder"),
    "a long pickle": (archive(members(saved(STATE), data_pkl=bytes(2**25 + 1))), "checkpoint_pickle_too_long"),
}

WIDE = torch.ones(1).expand(10**9)
ROLLING = torch.arange(100.0).unfold(0, 50, 1)
MANY = torch.zeros(1000)

INSIDE: dict[str, tuple[bytes, str]] = {  # refused in the child
    "a whole network": (saved(nn.Sequential(nn.Linear(2, 2))), "format_pickled_module"),
    "a class of somebody's": (saved({"a": Calls(Path, "x")}), "checkpoint_forbidden_global"),
    "a pickle that is cut": (archive(members(saved(STATE), data_pkl=b"\x80\x02}")), "checkpoint_damaged"),
    "an opcode of another protocol": (pickled(b"\x95" + bytes(8)), "checkpoint_damaged"),
    "an item set on no dictionary": (pickled(b"]K\1K\2s"), "checkpoint_forbidden_global"),
    "a storage that is missing": (archive(members(saved(STATE), data_0=None)), "checkpoint_damaged"),
    "a storage that is shorter": (archive(members(saved(STATE), data_0=b"1234")), "checkpoint_damaged"),
    "a tensor": (saved(torch.ones(3)), "checkpoint_not_a_state_dict"),
    "a list": (saved([torch.ones(3)]), "checkpoint_not_a_state_dict"),
    "no tensors": (saved({}), "checkpoint_not_a_state_dict"),
    "numbers for names": (saved({1: torch.ones(3)}), "checkpoint_not_a_state_dict"),
    "nested twice": (saved({"model": {"state_dict": STATE}}), "checkpoint_nested"),
    "nested in something else": (saved({"network": OrderedDict(STATE)}), "checkpoint_nested"),
    "a number among tensors": (saved({**STATE, "epoch": 3}), "checkpoint_not_tensors"),
    "a sparse tensor": (saved({"a": torch.eye(3).to_sparse()}), "checkpoint_layout"),
    "a tensor without numbers": (saved({"a": torch.ones(3, device="meta")}), "checkpoint_layout"),
    "complex numbers": (saved({"a": torch.ones(3, dtype=torch.complex64)}), "checkpoint_dtype"),
    "a billion numbers in four bytes": (saved({"a": WIDE}), "checkpoint_view"),
    "numbers counted many times": (saved({"a": ROLLING}), "checkpoint_view"),
    "a thousand tensors of the same numbers": (saved({f"{i}": MANY for i in range(1_000)}), "checkpoint_shared"),
}
