"""Where the suspect looks, and where the purified model does: attention maps side by side, and what SAGE aligns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.algorithms.attention import Attention, attention_distance, attention_map, normalized
from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.algorithms.errors import TooFewTaps
from worker.algorithms.metrics import logits
from worker.algorithms.taps import PROBED, Tap, find_taps, recording
from worker.stages.drawing import AFTER, BEFORE, Picture, array, svg
from worker.stages.load import Inputs

Map = NDArray[np.float32]

SHOWN = 2  # images of a kind
BATCH = 64  # feature maps of all taps are in memory at once
SQUARES = Attention(distance="squares")  # comparable over resolutions: 0 for equal maps, 2 for maps with nothing shared

CELL, SIDE, GAP, LINE, EDGE, HEAD = 0.95, 0.91, 0.18, 0.27, 0.42, 0.62  # inches


@dataclass(frozen=True)
class Row:
    """An image of one `kind`, and for each tap the maps (h, w) of the suspect and the purified model, with their
    distance."""

    kind: str
    label: int
    pixels: Tensor
    maps: list[tuple[Map, Map, float]]


def attention_pictures(
    inputs: Inputs,
    purified: nn.Module,
    triggers: ReversedTriggers | None,
    flagged: Sequence[int],
    taps: Sequence[str] = (),
) -> list[Picture]:
    """Attention maps on a few images (as in figures 2 and 3 of SAGE, IEEE S&P 2023), and the mean distance between
    adjacent taps on all of them.

    Triggered images are those that came with the job; where none came, clean images with the reversed trigger of the
    first `flagged` label take their place; without either there are clean images only. `taps` names the modules to
    read; none: they are found. A network with too few of them has no such pictures.
    """
    try:
        found = find_taps(inputs.suspect, as_float(inputs.clean.report.pixels[:PROBED]), taps).used
    except TooFewTaps:
        return []
    kinds = _kinds(inputs, triggers, flagged)
    rows = [row for kind, images in kinds.items() for row in _rows(inputs.suspect, purified, kind, images, found)]
    measured = {
        f"{kind}: {len(images)} images".replace("\n", " "): (
            _distances(inputs.suspect, images.pixels, found),
            _distances(purified, images.pixels, found),
        )
        for kind, images in kinds.items()
    }
    return [
        svg("attention.svg", _maps_figure(rows, found)),
        svg("attention-distances.svg", _distances_figure(measured, found)),
    ]


def _kinds(inputs: Inputs, triggers: ReversedTriggers | None, flagged: Sequence[int]) -> dict[str, Images]:
    """Clean and triggered images by what to call them. Images of the target itself show no trigger at work."""
    clean = inputs.clean.report
    if inputs.triggered is not None:
        counted = inputs.triggered.images.labels != inputs.triggered.targets
        if bool(counted.any()):
            return {"clean": clean, "triggered": inputs.triggered.images[counted]}
    if triggers is not None and flagged:
        counted = clean.labels != flagged[0]
        if bool(counted.any()):
            clean = clean[counted]
            stamped = Images(triggers[flagged[0]].stamp(clean.pixels), clean.labels)
            return {"clean": clean, f"reversed trigger\nof label {flagged[0]}": stamped}
    return {"clean": clean}


def _rows(suspect: nn.Module, purified: nn.Module, kind: str, images: Images, taps: Sequence[Tap]) -> list[Row]:
    """One image a class, of the first few classes."""
    labels = images.labels.tolist()
    chosen = [labels.index(label) for label in sorted(set(labels))[:SHOWN]]
    rows = []
    for index in chosen:
        pixels = images.pixels[index : index + 1]
        before, after = _features(suspect, pixels, taps), _features(purified, pixels, taps)
        maps = [
            (
                _map(before[tap.name]),
                _map(after[tap.name]),
                attention_distance(before[tap.name], after[tap.name], SQUARES).item(),
            )
            for tap in taps
        ]
        rows.append(Row(kind, labels[index], pixels[0], maps))
    return rows


def _features(model: nn.Module, pixels: Tensor, taps: Sequence[Tap]) -> dict[str, Tensor]:
    """Feature maps (N, C, h, w) of uint8 images (N, C, H, W) by the names of the taps."""
    with recording(model, taps) as features:
        logits(model, pixels, batch_size=len(pixels))
    return features


def _map(features: Tensor) -> Map:
    """The attention map of one image, of unit length."""
    seen: Map = normalized(attention_map(features))[0, 0].cpu().numpy()
    return seen


def _distances(model: nn.Module, pixels: Tensor, taps: Sequence[Tap]) -> list[float]:
    """L_SAD of each pair of adjacent taps, the mean over uint8 images (N, C, H, W)."""
    total = torch.zeros(len(taps) - 1, device=pixels.device)
    for part in torch.split(pixels, BATCH):
        features = _features(model, part, taps)
        for path, (shallow, deep) in enumerate(itertools.pairwise(taps)):
            total[path] += attention_distance(features[shallow.name], features[deep.name], SQUARES) * len(part)
    return (total / len(pixels)).tolist()


def _maps_figure(rows: Sequence[Row], taps: Sequence[Tap]) -> Figure:
    """A row an image; after the image, for each tap, the map of the suspect and that of the purified model."""
    width, height = EDGE + len(taps) * (2 * CELL + GAP) + CELL + GAP, HEAD + len(rows) * (CELL + LINE) + LINE
    figure = Figure(figsize=(width, height))
    centered: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}

    def place(x: float, y: float) -> tuple[float, float]:
        """Inches from the upper left corner to what matplotlib takes."""
        return x / width, 1 - y / height

    def cell(left: float, top: float) -> Axes:
        axis = figure.add_axes((*place(left, top + SIDE), SIDE / width, SIDE / height))
        axis.set_axis_off()
        return axis

    lefts = [EDGE + CELL + GAP + number * (2 * CELL + GAP) for number in range(len(taps))]
    for left, tap in zip(lefts, taps, strict=True):
        figure.text(*place(left + CELL, 0.22), f"{_name(tap)}, {tap.height}×{tap.width}", **centered)
        figure.text(*place(left + CELL * 0.5, 0.47), "suspect", color=BEFORE, **centered)
        figure.text(*place(left + CELL * 1.5, 0.47), "purified", color=AFTER, **centered)
    for number, row in enumerate(rows):
        top, below = HEAD + number * (CELL + LINE), HEAD + number * (CELL + LINE) + CELL + 0.1
        cell(EDGE, top).imshow(array(row.pixels), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        figure.text(*place(EDGE + CELL / 2, below), f"label {row.label}", **centered)
        figure.text(*place(EDGE / 2, top + CELL / 2), row.kind, rotation=90, **centered)
        for left, (before, after, distance) in zip(lefts, row.maps, strict=True):
            brightest = max(before.max(), after.max())
            for start, seen in ((left, before), (left + CELL, after)):
                cell(start, top).imshow(seen, cmap="inferno", vmin=0, vmax=brightest, interpolation="nearest")
            figure.text(*place(left + CELL, below), f"{distance:.2f}", **centered)
    caption = "Each pair of attention maps has one scale; below it their squared distance, 0 (equal) to 2."
    figure.text(*place(width / 2, height - 0.14), caption, color="#555555", **centered)
    return figure


def _distances_figure(measured: dict[str, tuple[list[float], list[float]]], taps: Sequence[Tap]) -> Figure:
    """A panel a kind of images; a pair of bars a path, before and after."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for axis, (kind, distances) in zip(panels, measured.items(), strict=True):
        for values, name, color, shift in zip(
            distances, ("suspect", "purified"), (BEFORE, AFTER), (-0.2, 0.2), strict=True
        ):
            bars = axis.bar([path + shift for path in range(len(values))], values, width=0.4, color=color, label=name)
            axis.bar_label(bars, fmt="%.2f", fontsize=7)
        axis.set_title(kind, fontsize=9)
        paths = [f"{_name(shallow)}\n{_name(deep)}" for shallow, deep in itertools.pairwise(taps)]
        axis.set_xticks(range(len(paths)), paths)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("L_SAD, sum of squares", fontsize=9)
    panels[0].margins(y=0.2)
    panels[-1].legend(frameon=False, ncols=2, loc="upper right", fontsize=8)
    figure.suptitle("Attention distance between adjacent layers", fontsize=10)
    return figure


def _name(tap: Tap) -> str:
    return tap.name.removeprefix("network.")
