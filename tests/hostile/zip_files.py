"""Zip files that break a rule, each one rule, written byte by byte: no tool would make them."""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

LOCAL, CENTRAL, END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
END64, LOCATOR64 = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")


@dataclass
class Part:
    """A member. `local` and `central` say what the header before the content and the table of contents lie about."""

    name: bytes
    content: bytes = b"x"
    method: int = 0
    flags: int = 0
    size: int | None = None
    extra: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)


def zip_file(
    *parts: Part,
    prefix: bytes = b"",
    gap: bytes = b"",
    tail: bytes = b"",
    end: dict[str, int] | None = None,
    **more: Any,
) -> bytes:
    """`end` says what the end record lies about; `more` are the fields of a zip64 end record, where there is one."""
    written, contents = prefix, b""
    for part in parts:
        told = {
            "crc": zlib.crc32(unpacked(part)),
            "packed": len(part.content),
            "size": len(unpacked(part)) if part.size is None else part.size,
            "flags": part.flags,
            "method": part.method,
            "name": part.name,
            "begin": len(written),
        }
        contents += central(part, {**told, **part.central})
        written += local({**told, **part.local}) + part.content + gap
    wide = end64(len(parts), len(contents), len(written), **more) if more else b""
    record = {"disk": 0, "here": len(parts), "count": len(parts), "length": len(contents), "begin": len(written)}
    record |= end or {}
    last = END.pack(b"PK\5\6", record["disk"], 0, record["here"], record["count"], record["length"], record["begin"], 0)
    return written + contents + wide + last + tail


def unpacked(part: Part) -> bytes:
    return zlib.decompress(part.content, -15) if part.method == 8 else part.content


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def local(told: dict[str, Any]) -> bytes:
    name, numbers = told["name"], (told["crc"], told["packed"], told["size"])
    return LOCAL.pack(b"PK\3\4", 20, told["flags"], told["method"], 0, 0, *numbers, len(name), 0) + name


def central(part: Part, told: dict[str, Any]) -> bytes:
    name, numbers = told["name"], (told["crc"], told["packed"], told["size"])
    lengths = (len(name), len(part.extra), 0, 0, 0)
    head = (b"PK\1\2", 3 << 8, 20, told["flags"], told["method"], 0, 0)
    return CENTRAL.pack(*head, *numbers, *lengths, part.mode << 16, told["begin"]) + name + part.extra


def end64(count: int, length: int, begin: int, *, moved: int = 0, counted: int = 0) -> bytes:
    record = END64.pack(b"PK\6\6", 44, 20, 20, 0, 0, count + counted, count + counted, length, begin)
    return record + LOCATOR64.pack(b"PK\6\7", 0, begin + length + moved, 1)


A, B = Part(b"0/a.png"), Part(b"0/b.png")
HIDDEN = LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(b"x"), 1, 1, 7, 0) + b"0/b.pngx"

TRICKS: dict[str, tuple[bytes, str]] = {
    "no end record": (zip_file(A)[:-22], "zip_malformed"),
    "an end record and nothing else, of two disks": (zip_file(end={"disk": 1}), "zip_malformed"),
    "another end record hidden behind it": (zip_file(A, tail=b"PK\5\6" + bytes(18)), "zip_prefix"),
    "bytes behind the end": (zip_file(A, tail=b"#!/bin/sh"), "zip_trailing_bytes"),
    "a program before the beginning": (zip_file(A, prefix=b"#!/bin/sh\n"), "zip_prefix"),
    "bytes between two members": (zip_file(A, B, gap=b"hidden"), "zip_prefix"),
    "more in the table than is counted": (zip_file(A, B, end={"here": 1, "count": 1}), "zip_malformed"),
    "fewer in the table than are counted": (zip_file(A, end={"here": 2, "count": 2}), "zip_malformed"),
    "a table that begins elsewhere": (zip_file(A, end={"begin": 3}), "zip_prefix"),
    "a million members counted": (
        zip_file(A, end={"here": 0xFFFF, "count": 0xFFFF, "length": 0xFFFFFFFF}, counted=10**6),
        "zip_too_many_members",
    ),
    "zip64 that counts otherwise": (zip_file(A, counted=1), "zip_zip64"),
    "zip64 that is not where it is said to be": (zip_file(A, moved=1), "zip_zip64"),
    "zip64 of nothing that is too large": (zip_file(Part(b"0/a", extra=struct.pack("<2HQ", 1, 8, 5))), "zip_zip64"),
    "two zip64 records": (
        zip_file(Part(b"0/a", extra=struct.pack("<2HQ2HQ", 1, 8, 1, 1, 8, 2), central={"size": 0xFFFFFFFF})),
        "zip_zip64",
    ),
    "zip64 that is missing": (zip_file(Part(b"0/a", central={"size": 0xFFFFFFFF})), "zip_zip64"),
    "another name in the table": (zip_file(Part(b"0/a.png", local={"name": b"0/b.png"})), "zip_mismatch"),
    "another method in the table": (zip_file(Part(b"0/a.png", local={"method": 8})), "zip_mismatch"),
    "other flags in the table": (zip_file(Part(b"0/a.png", local={"flags": 1})), "zip_mismatch"),
    "another size in the table": (zip_file(Part(b"0/a.png", local={"size": 7})), "zip_mismatch"),
    "another checksum in the table": (zip_file(Part(b"0/a.png", local={"crc": 7})), "zip_mismatch"),
    "a member that begins in another": (
        zip_file(Part(b"0/a.png", HIDDEN), Part(b"0/b.png", central={"begin": LOCAL.size + 7})),
        "zip_overlap",
    ),
    "two names for the same bytes": (zip_file(A, Part(b"0/a.png", central={"begin": 0})), "zip_duplicate_name"),
    "a member that reaches into the table": (
        zip_file(Part(b"0/a.png", local={"packed": 60, "size": 60}, central={"packed": 60, "size": 60})),
        "zip_overlap",
    ),
    "a member behind the members": (zip_file(Part(b"0/a.png", central={"begin": 10**6})), "zip_mismatch"),
    "a path upwards": (zip_file(Part(b"../0/a.png")), "zip_name"),
    "a path upwards in the middle": (zip_file(Part(b"0/../../a.png")), "zip_name"),
    "a path from the root": (zip_file(Part(b"/etc/0/a.png")), "zip_name"),
    "a path of Windows": (zip_file(Part(b"0\\a.png")), "zip_name"),
    "a drive": (zip_file(Part(b"C:0/a.png")), "zip_name"),
    "a name with a NUL": (zip_file(Part(b"0/a.png\0.exe")), "zip_name"),
    "a name with an escape": (zip_file(Part(b"0/\x1b[2J.png")), "zip_name"),
    "a name that reads backwards": (zip_file(Part("0/\u202egnp.a".encode(), flags=0x800)), "zip_name"),
    "a name that is not UTF-8": (zip_file(Part(b"0/\xff", flags=0x800)), "zip_name"),
    "no name": (zip_file(Part(b"")), "zip_name"),
    "a very long name": (zip_file(Part(b"0/" + b"a" * 2_000)), "zip_name"),
    "a name twice": (zip_file(A, A), "zip_duplicate_name"),
    "a name twice, written otherwise": (
        zip_file(Part("0/é".encode(), flags=0x800), Part("0/e\u0301".encode(), flags=0x800)),
        "zip_duplicate_name",
    ),
    "a file that is a folder too": (zip_file(Part(b"0/a"), Part(b"0/a/", b"")), "zip_duplicate_name"),
    "a symbolic link": (zip_file(Part(b"0/a.png", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)), "zip_link"),
    "a device": (zip_file(Part(b"0/a.png", mode=stat.S_IFCHR | 0o666)), "zip_link"),
    "encryption": (zip_file(Part(b"0/a.png", flags=0x1)), "zip_encrypted"),
    "strong encryption": (zip_file(Part(b"0/a.png", flags=0x40)), "zip_encrypted"),
    "bzip2": (zip_file(Part(b"0/a.png", method=12)), "zip_method"),
    "zstd": (zip_file(Part(b"0/a.png", method=93)), "zip_method"),
    "stored bytes of another size": (zip_file(Part(b"0/a.png", size=5)), "zip_sizes"),
    "a folder with content": (zip_file(Part(b"0/")), "zip_sizes"),
    "a bomb": (zip_file(Part(b"0/a.png", deflated(bytes(2**24)), method=8)), "zip_ratio"),
    "a bomb that says it is small": (
        zip_file(Part(b"0/a.png", deflated(bytes(2**24)), method=8, size=900)),
        "undecodable_images",
    ),
    "a bomb that says it is large": (zip_file(Part(b"0/a.png", deflated(b"x" * 100), method=8, size=900)), "zip_sizes"),
}
