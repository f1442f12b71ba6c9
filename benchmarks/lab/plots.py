"""The lab's figures, from its records: SVG, and the same bytes for the same records.

A panel is an attack; what is varied is on its horizontal axis. MPA is blue and round, ASR vermilion and square (of the
colours of Okabe and Ito, which the colour-blind tell apart); filled is what came out, hollow and dashed SAGE's control
with β = 0, dotted the suspect before. A mark is the mean over seeds, of the worst of several triggers. What was not
run, or refused, has no mark.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.lab.tables import Record, attack, purifier
from worker.algorithms.purifiers.sage import sage
from worker.stages.drawing import Picture, svg

Place = float | str
Points = dict[tuple[str, str], dict[Place, list[float]]]
"""Per cent, one value a seed, by the place on the horizontal axis, of each measure and series."""

MEASURES = {"MPA": {"color": "#0072B2", "marker": "o"}, "ASR": {"color": "#D55E00", "marker": "s"}}
BEFORE, CONTROL = "before", "control (β = 0)"
STYLES: dict[str, dict[str, Any]] = {
    BEFORE: {"linestyle": ":", "marker": "_"},
    CONTROL: {"linestyle": "--", "markerfacecolor": "white"},
}
SCALES: dict[str, dict[str, Any]] = {"linear": {}, "log": {}, "symlog": {"linthresh": 30}}
COLUMNS = 4  # panels side by side
WIDTH, HEIGHT, NAMES = 2.6, 2.2, 1.2  # inches of a panel, and of upright names below it
DEFAULTS = {name: option.default for name, option in inspect.signature(sage).parameters.items()}


@dataclass(frozen=True)
class Plot:
    """A figure: where on the horizontal axis a record lies (`None`: it is no part of it), and which panel is its own.
    `ours` is what the legend calls the purified networks; the control is one of them where it is not `apart`."""

    name: str
    label: str
    place: Callable[[Record], Place | None]
    scale: Literal["linear", "log", "symlog", "names"] = "names"
    panel: Callable[[Record], str] = attack
    ours: str = "SAGE"
    apart: bool = True


def pictures(grid: str, records: Sequence[Record]) -> list[Picture]:
    """The figures of a grid, as far as it has records; for one that varies nothing along an axis, the purifiers beside
    each other, a figure for each number of clean images."""
    drawn = [(plot, figure(records, plot)) for plot in PLOTS.get(grid) or _by_purifier(grid, records)]
    return [svg(f"{plot.name}.svg", made) for plot, made in drawn if made is not None]


def figure(records: Sequence[Record], plot: Plot) -> Figure | None:
    """None where no record has anything to show."""
    shown = [record for record in records if "refused" not in record and plot.place(record) is not None]
    if not shown:
        return None
    places = list(dict.fromkeys(plot.place(record) for record in shown))
    if plot.scale != "names":
        places.sort()
    panels = list(dict.fromkeys(plot.panel(record) for record in shown))
    columns, rows = min(COLUMNS, len(panels)), math.ceil(len(panels) / COLUMNS)
    height = HEIGHT + (NAMES if plot.scale == "names" else 0)
    made = Figure(figsize=(WIDTH * max(columns, 2), height * rows + 0.5), layout="constrained")
    axes = made.subplots(rows, columns, sharey=True, squeeze=False)
    for axis, panel in itertools.zip_longest(axes.flat, panels):
        if panel is None:
            axis.set_axis_off()
            continue
        _draw(axis, panel, points([record for record in shown if plot.panel(record) == panel], plot), places, plot)
    for axis in axes[:, 0]:
        axis.set_ylabel("MPA and ASR, per cent", fontsize=8)
    legend = {name: line for axis in axes.flat for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    made.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return made


def points(records: Sequence[Record], plot: Plot) -> Points:
    """What the records say, those of the suspects before with them."""
    found: Points = {}
    for record in records:
        place = plot.place(record)
        assert place is not None
        after = CONTROL if plot.apart and is_control(record) else plot.ours
        for measure, (series, figures) in itertools.product(MEASURES, ((BEFORE, record["suspect"]), (after, record))):
            value = figures["mpa"] if measure == "MPA" else max(figures["asr"], default=None)
            if value is not None:
                found.setdefault((measure, series), {}).setdefault(place, []).append(100 * value)
    return found


def is_control(record: Record) -> bool:
    return bool(record["purifier"] == "sage" and record["options"] == {"beta": 0})


def _draw(axis: Axes, panel: str, found: Points, places: Sequence[Any], plot: Plot) -> None:
    named = plot.scale == "names"
    at = {place: number for number, place in enumerate(places)} if named else {place: place for place in places}
    for (measure, series), by_place in sorted(found.items(), key=lambda one: (one[0][0] != "MPA", one[0][1] != BEFORE)):
        x = [at[place] for place in places if place in by_place]
        y = [statistics.mean(by_place[place]) for place in places if place in by_place]
        style = {"linestyle": "-", "linewidth": 1.2, "markersize": 4, **MEASURES[measure], **STYLES.get(series, {})}
        if named and series != BEFORE:
            style["linestyle"] = ""  # names have no order that a line could follow
        (line,) = axis.plot(x, y, label=f"{measure}, {series}", clip_on=False, **style)
        line.set_gid(re.sub(r"\W+", "-", f"{panel} {measure} {series}").strip("-"))
    if named:
        axis.set_xlim(-0.5, len(places) - 0.5)
    else:
        axis.set_xscale(plot.scale, **SCALES[plot.scale])
    labels = [place if isinstance(place, str) else f"{place:g}" for place in places]
    axis.set_xticks(list(at.values()), labels, rotation=90 if named else 0)
    axis.minorticks_off()
    axis.set_ylim(0, 100)
    axis.set_title(textwrap.fill(panel, 34), fontsize=8)
    axis.set_xlabel(plot.label, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _attack_alone(record: Record) -> str:
    return str(record["recipe"]["attack"])


def _trigger(option: str) -> Callable[[Record], float]:
    return lambda record: float(record["recipe"]["options"][option])


def _only(record: Record, *options: str) -> dict[str, Any] | None:
    """The values of these options of SAGE in a record that has no others, the defaults with them."""
    given = record["options"]
    return {**DEFAULTS, **given} if given.keys() <= set(options) else None


def _beta(record: Record) -> float | None:
    options = _only(record, "beta")
    return None if options is None else float(options["beta"])


def _attention(record: Record) -> str | None:
    options = _only(record, "attention", "p")
    if options is None:
        return CONTROL if is_control(record) else None
    return options["attention"] if options["attention"] == "sum" else f"{options['attention']}, p = {options['p']:g}"


def _paths(record: Record) -> str | None:
    options = _only(record, "paths")
    if options is None:
        return CONTROL if is_control(record) else None
    paths = options["paths"]
    return paths if isinstance(paths, str) else ", ".join(f"⟨{shallow}, {deep}⟩" for shallow, deep in paths)


def _purifier(clean: int, record: Record) -> str | None:
    if record["clean"] != clean:
        return None
    return CONTROL if is_control(record) else purifier(record)


def _by_purifier(grid: str, records: Sequence[Record]) -> list[Plot]:
    return [
        Plot(f"{grid}-{clean}", f"purifier, {clean} clean images", functools.partial(_purifier, clean), ours="after")
        for clean in sorted({record["clean"] for record in records})
    ]


PLOTS = {
    "clean_sizes": [Plot("clean_sizes", "clean images", lambda record: record["clean"], "log")],  # figure 4
    "ablations": [  # figures 5 to 7
        Plot("ablations-beta", "β", _beta, "symlog", apart=False),
        Plot("ablations-attention", "G, how channels become a map", _attention),
        Plot("ablations-paths", "paths", _paths),
    ],
    "large_triggers": [
        Plot("large_triggers", "side of the trigger, pixels", _trigger("size"), "linear", _attack_alone)
    ],
    "transparency": [
        Plot("transparency", "transparency, 0: opaque", _trigger("transparency"), "linear", _attack_alone)
    ],
}
