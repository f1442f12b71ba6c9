"""What a zip file claims, checked before anything is unpacked: every byte belongs to one member, and the two places
that describe a member agree. Readers of zip files differ in which of the two they believe, and `zipfile` of older
Pythons looks for no overlaps; a file that passes here means the same to all of them.
"""

from __future__ import annotations

import encodings.cp437  # noqa: F401  of names; a confined child can import nothing later
import os
import re
import stat
import struct
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from worker.stages.errors import Refused

END, END64, LOCATOR64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
CENTRAL, LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # "too large for this field: look in the zip64 record"

ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: encrypted, strongly, with its table of contents
DESCRIPTOR, UTF8 = 0x8, 0x800  # flags: sizes come behind the data; the name is UTF-8
MEANT = ENCRYPTED | DESCRIPTOR | UTF8
DESCRIPTOR_BYTES = 24
STORED, DEFLATED = 0, 8
LOOKS_FOR_END = 22 + FULL16

MAX_NAME = 1024
DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Rules:
    """How many members, how many bytes in the table of contents and unpacked, which methods; and how many bytes one
    may become, in a member of more than `small`."""

    members: int = 200_000
    contents: int = 64 * 2**20
    unpacked: int = 8 * 2**30
    methods: tuple[int, ...] = (STORED, DEFLATED)
    ratio: int = 200
    small: int = 2**20


@dataclass(frozen=True)
class Member:
    """`begin` is where its local header is, `data` where its content begins, `end` where that ends."""

    name: str
    method: int
    size: int
    begin: int
    data: int
    end: int
    descriptor: bool


def check_zip(path: Path, rules: Rules) -> list[Member]:
    """The members, in the order of the table of contents; folders too. Raises `Refused`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        count, begin, end = _end_record(file, size)
        if count > rules.members:
            raise Refused(
                "zip_too_many_members", f"the zip file has {count} members, at most {rules.members} are taken"
            )
        if end - begin > rules.contents:
            raise Refused("zip_contents_too_long", f"the zip file's table of contents has {end - begin} bytes")
        file.seek(begin)
        contents = file.read(end - begin)
        members, position = [], 0
        for _ in range(count):
            member, position = _member(file, contents, position, begin, rules)
            members.append(member)
    if position != len(contents):
        raise Refused("zip_malformed", "the zip file's table of contents is longer than its members")
    _check_names(members)
    _check_layout(members, begin)
    if sum(member.size for member in members) > rules.unpacked:
        raise Refused("zip_too_large", f"the zip file unpacks to more than {rules.unpacked} bytes")
    return members


def _end_record(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """How many members there are, and where the table of contents begins and ends."""
    file.seek(max(0, size - LOOKS_FOR_END))
    tail = file.read(LOOKS_FOR_END)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < END.size:
        raise Refused("zip_malformed", "the zip file has no end record: it was probably cut off")
    _, disk, first_disk, here, count, length, begin, comment = END.unpack_from(tail, found)
    if len(tail) - found != END.size + comment:
        raise Refused("zip_trailing_bytes", "there are bytes behind the end of the zip file")
    end = size - len(tail) + found
    place = found - LOCATOR64.size
    if place >= 0 and tail[place : place + 4] == b"PK\6\7":
        plain = (disk, first_disk, here, count, length, begin)
        disk, first_disk, here, count, length, begin, end = _end_record64(
            file, tail[place:], end - LOCATOR64.size, plain
        )
    if disk or first_disk or here != count:
        raise Refused("zip_malformed", "the zip file is one of several")
    if begin + length != end:
        raise Refused("zip_prefix", "the zip file's table of contents is not where its end record says")
    return count, begin, end


def _end_record64(file: BinaryIO, locator: bytes, end: int, plain: tuple[int, ...]) -> tuple[int, ...]:
    """The fields of `plain` in 64 bits, and where the record begins. Both records have to say the same."""
    place = end - END64.size
    if LOCATOR64.unpack_from(locator)[2] != place or place < 0:
        raise Refused("zip_zip64", "the zip64 end record is not where it should be")
    file.seek(place)
    signature, _, _, _, *fields = END64.unpack(file.read(END64.size))
    full = (FULL16, FULL16, FULL16, FULL16, FULL32, FULL32)
    if signature != b"PK\6\6" or any(
        small not in (large, most) for small, large, most in zip(plain, fields, full, strict=True)
    ):
        raise Refused("zip_zip64", "the two end records of the zip file contradict each other")
    return (*fields, place)


def _member(file: BinaryIO, contents: bytes, position: int, limit: int, rules: Rules) -> tuple[Member, int]:
    """The member described at `position`, and where the next is described."""
    if len(contents) - position < CENTRAL.size or contents[position : position + 4] != b"PK\1\2":
        raise Refused("zip_malformed", "the zip file's table of contents is damaged")
    (_, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, _, _, attributes, begin) = (
        CENTRAL.unpack_from(contents, position)
    )
    position += CENTRAL.size + name_length
    raw, extra = contents[position - name_length : position], contents[position : position + extra_length]
    name = _name(raw, flags)
    size, packed, begin = _wide(name, extra, [size, packed, begin])
    _check_member(name, flags, method, size, packed, attributes, rules)
    data = _check_local(file, name, raw, (flags, method, crc, packed, size), begin, limit)
    member = Member(name, method, size, begin, data, data + packed, bool(flags & DESCRIPTOR))
    return member, position + extra_length + comment


def _name(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise Refused("zip_name", f"{raw[:120]!a} is not the UTF-8 that it claims to be") from error
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or DRIVE.match(name):
        raise Refused("zip_name", f"{name[:120]!a} is not a plain relative path")
    if not name or len(name) > MAX_NAME or any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in name):
        raise Refused("zip_name", f"{name[:120]!a} is empty, too long, or has characters that cannot be seen")
    return name


def _wide(name: str, extra: bytes, fields: list[int]) -> list[int]:
    """Size, packed size and offset, from the zip64 record where they are too large for 32 bits."""
    found, position = [], 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            found.append(extra[position + 4 : position + 4 + length])
        position += 4 + length
    full = [index for index, field in enumerate(fields) if field == FULL32]
    if len(found) > 1 or (found and len(found[0]) != 8 * len(full)) or (full and not found):
        raise Refused("zip_zip64", f"the zip64 record of {name[:120]!a} does not fit what it stands for")
    for index, value in zip(full, struct.unpack(f"<{len(full)}Q", found[0]) if full else (), strict=True):
        fields[index] = value
    return fields


def _check_member(name: str, flags: int, method: int, size: int, packed: int, attributes: int, rules: Rules) -> None:
    shown = ascii(name[:120])
    if flags & ENCRYPTED:
        raise Refused("zip_encrypted", f"{shown} is encrypted")
    if method not in rules.methods:
        raise Refused("zip_method", f"{shown} is compressed with method {method}; expected one of {rules.methods}")
    kind = stat.S_IFMT(attributes >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused("zip_link", f"{shown} is a link or a device")
    if (method == STORED and size != packed) or (name.endswith("/") and size):
        raise Refused("zip_sizes", f"{shown} has {packed} bytes in the file, and {size} are announced")
    if size > rules.small and size > rules.ratio * packed:
        raise Refused("zip_ratio", f"{shown} makes {size} bytes of {packed}")


def _check_local(file: BinaryIO, name: str, raw: bytes, told: tuple[int, ...], begin: int, limit: int) -> int:
    """Where the content begins. The header before it has to say what the table of contents says: `told`."""
    shown = ascii(name[:120])
    if begin + LOCAL.size > limit:
        raise Refused("zip_mismatch", f"{shown} begins behind the members")
    file.seek(begin)
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL.unpack(
        file.read(LOCAL.size)
    )
    if signature != b"PK\3\4" or file.read(name_length) != raw:
        raise Refused("zip_mismatch", f"{shown} has another name where it begins")
    size, packed = _wide(name, file.read(extra_length), [size, packed])
    same = (flags & MEANT, method) == (told[0] & MEANT, told[1])
    later = flags & DESCRIPTOR and (crc, packed, size) == (0, 0, 0)
    if not same or not (later or (crc, packed, size) == told[2:]):
        raise Refused("zip_mismatch", f"{shown} is described otherwise where it begins")
    data = file.tell()
    if data + told[3] > limit:
        raise Refused("zip_overlap", f"{shown} reaches into the table of contents")
    return data


def _check_names(members: list[Member]) -> None:
    seen = set()
    for member in members:
        name = unicodedata.normalize("NFC", member.name).rstrip("/")
        if name in seen:
            raise Refused("zip_duplicate_name", f"{member.name[:120]!a} is in the zip file twice")
        seen.add(name)


def _check_layout(members: list[Member], limit: int) -> None:
    reached, slack = 0, 0
    for member in sorted(members, key=lambda member: member.begin):
        if member.begin < reached:
            raise Refused("zip_overlap", f"{member.name[:120]!a} shares bytes with another member")
        if member.begin > reached + slack:
            raise Refused("zip_prefix", f"{member.begin - reached} bytes before {member.name[:120]!a} are no member's")
        reached, slack = member.end, DESCRIPTOR_BYTES if member.descriptor else 0
    if limit > reached + slack:
        raise Refused("zip_prefix", f"{limit - reached} bytes before the table of contents are no member's")
