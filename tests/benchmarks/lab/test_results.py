from __future__ import annotations

import re
from pathlib import Path

from benchmarks.lab.__main__ import PAGE, printed
from benchmarks.lab.plots import PLOTS
from benchmarks.lab.results import TABLE, refreshed

DRAWN = ("ablations", "clean_sizes")  # of the other grids there are no records yet


def test_the_page_says_what_the_records_say() -> None:
    page = PAGE.read_text()
    assert len(TABLE.findall(page)) == page.count("python -m benchmarks.lab ") - 1  # one is in the text
    assert refreshed(page, printed) == page, "run `python -m benchmarks.lab results`"


def test_its_figures_are_there() -> None:
    figures = re.findall(r"\]\((.+?\.svg)\)", PAGE.read_text())
    assert {Path(figure).name for figure in figures} == {f"{plot.name}.svg" for grid in DRAWN for plot in PLOTS[grid]}
    assert all((PAGE.parent / figure).exists() for figure in figures)


def test_a_table_is_replaced_and_all_else_stays() -> None:
    page = "# A page\n\n<!-- python -m benchmarks.lab table --clean 5 -->\n| old |\n<!-- end -->\n\nText.\n"
    once = refreshed(page, " ".join)
    assert once == page.replace("| old |\n", "\ntable --clean 5\n")
    assert refreshed(once, " ".join) == once
