"""A zip file from a stranger: read in memory within limits, never extracted, and believed in nothing.

Declared sizes are not looked at; what counts is what comes out. Members that share bytes, nest or expand without end
run into the same limits. `zipfile` checks each member's CRC.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from worker.stages.errors import BundleNotUnderstood, BundleTooLarge

CONTENTS_BYTES = 64 * 2**20  # of the table of contents, which `zipfile` reads into memory as a whole


class Damaged(Exception):
    """A member that cannot be unpacked."""


@dataclass
class Archive:
    """`names` are the files in it, sorted; `read` gives one. `left` counts down the bytes that may still come out."""

    names: list[str]
    left: int
    _zip: zipfile.ZipFile

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a member. Raises `BundleTooLarge` beyond `limit` or beyond all that is left, and `Damaged`."""
        most = min(limit, self.left)
        try:
            with self._zip.open(name) as member:
                content = member.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise Damaged(str(error) or type(error).__name__) from error
        if len(content) > most:
            raise BundleTooLarge(f"{name} unpacks to more than {most} bytes")
        self.left -= len(content)
        return content


@contextlib.contextmanager
def open_archive(path: Path, *, max_members: int, max_bytes: int) -> Iterator[Archive]:
    """Raises `BundleNotUnderstood` for what is no plain zip, and `BundleTooLarge`."""
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(_BoundedFile(path))))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BundleNotUnderstood(f"not a readable zip file: {error}") from error
        members = archive.infolist()
        if len(members) > max_members:
            raise BundleTooLarge(f"the zip file has {len(members)} members, at most {max_members} are taken")
        for member in members:
            _check(member)
        names = sorted(member.filename for member in members if not member.is_dir())
        twice = next((name for name, after in itertools.pairwise(names) if name == after), None)
        if twice is not None:
            raise BundleNotUnderstood(f"{twice!r} is in the zip file twice")
        yield Archive(names, max_bytes, archive)


def _check(member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in member.orig_filename or "\0" in member.orig_filename:
        raise BundleNotUnderstood(f"{member.orig_filename!r} is not a plain relative path")
    if member.flag_bits & 0x1:
        raise BundleNotUnderstood(f"{member.filename!r} is encrypted", "Send the zip file without a password.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleNotUnderstood(
            f"{member.filename!r} is compressed with method {member.compress_type}",
            "Store the files, or use the usual deflate.",
        )


class _BoundedFile(io.FileIO):
    """A file that gives no more than `CONTENTS_BYTES` at once: nobody needs more, except for a table of contents
    with millions of entries, which would become gigabytes of objects."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > CONTENTS_BYTES:
            raise BundleTooLarge(f"the zip file's table of contents has {size} bytes")
        return super().read(size)
