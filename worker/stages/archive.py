"""A zip file from a stranger: checked as a whole, read in memory within limits, and never extracted."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.stages.errors import BundleTooLarge, Refused
from worker.stages.zip_directory import Rules, check_zip


class Damaged(Exception):
    """A member that cannot be unpacked."""


@dataclass
class Archive:
    """`sizes` has what each file is said to unpack to, sorted by name; `read` gives one. `left` counts down the bytes
    that may still come out."""

    sizes: dict[str, int]
    left: int
    _zip: zipfile.ZipFile

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a member. Raises `BundleTooLarge` beyond `limit` or beyond all that is left, `Refused` where it
        has not the size that is announced, and `Damaged`."""
        most = min(limit, self.left)
        if self.sizes[name] > most:
            raise BundleTooLarge(f"{name} unpacks to more than {most} bytes")
        try:
            with self._zip.open(name) as member:
                content = member.read(self.sizes[name] + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise Damaged(str(error) or type(error).__name__) from error
        if len(content) != self.sizes[name]:
            raise Refused("zip_sizes", f"{name} unpacks to {len(content)} bytes, {self.sizes[name]} are announced")
        self.left -= len(content)
        return content


@contextlib.contextmanager
def open_archive(path: Path, rules: Rules) -> Iterator[Archive]:
    """Raises `Refused`."""
    members = check_zip(path, rules)
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise Refused("zip_malformed", f"not a readable zip file: {error}") from error
        files = sorted((member.name, member.size) for member in members if not member.name.endswith("/"))
        yield Archive(dict(files), rules.unpacked, archive)
