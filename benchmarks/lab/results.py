"""docs/lab-results.md: its tables are what the records say.

A table stands under the command that prints it:

    <!-- python -m benchmarks.lab table --grid main --clean 500 -->
    | …
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable

TABLE = re.compile(r"(<!-- python -m benchmarks\.lab (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def refreshed(page: str, printed: Callable[[list[str]], str]) -> str:
    """The page with each table as `printed` gives it for the words of its command."""
    return TABLE.sub(lambda found: f"{found[1]}\n{printed(found[2].split())}\n{found[3]}", page)
