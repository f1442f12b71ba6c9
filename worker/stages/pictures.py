"""What the numbers look like: the reversed triggers, their norms, the history. SVG, and one PNG for other pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from redeem.assessment import Assessment, NeuralCleanse
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.algorithms.triggers import Trigger
from worker.stages.drawing import AFTER, BEFORE, Picture, array, png, svg
from worker.stages.load import Inputs

SHOWN = 3  # labels whose triggers are drawn, smallest norm first
INDEX = {"mad": "anomaly index", "ratio": "median over smallest"}
BARS = 20  # with more labels than that, bars are too thin


def pictures(
    inputs: Inputs,
    before: Assessment,
    after: Assessment,
    triggers: ReversedTriggers | None,
    history: list[dict[str, float]],
) -> list[Picture]:
    """All pictures of a job; those of Neural Cleanse only where it ran. The same job gives the same bytes."""
    drawn = [svg("history.svg", _history(history))] if history else []
    if triggers is None or before.neural_cleanse is None:
        return drawn
    labels = before.neural_cleanse.flagged[:SHOWN] or [int(triggers.norms.argmin())]
    drawn.append(svg("triggers.svg", _triggers(inputs, triggers, labels)))
    drawn.append(svg("norms.svg", _norms(before.neural_cleanse, after.neural_cleanse)))
    drawn.extend(png(f"reversed-trigger-{label}.png", on_grey(triggers[label])) for label in labels)
    return drawn


def on_grey(trigger: Trigger) -> Tensor:
    """A trigger blended into mid-grey: uint8 (C, H, W)."""
    grey = trigger.pattern.new_full((1, *trigger.pattern.shape), 127).byte()
    return trigger.stamp(grey)[0]


def _triggers(inputs: Inputs, triggers: ReversedTriggers, labels: list[int]) -> Figure:
    """A row a label: mask, trigger, a clean image with it, and a triggered image of the bundle beside them."""
    clean = inputs.clean.report.pixels[:1].cpu()
    figure = Figure(figsize=(8.4, 2.4 * len(labels)), layout="constrained")
    axes = figure.subplots(len(labels), 4, squeeze=False)
    for row, label in zip(axes, labels, strict=True):
        trigger = triggers[label]
        stamped = trigger.stamp(clean)[0]
        shown: list[tuple[str, Tensor | None]] = [
            (f"label {label}: mask, L1 {float(triggers.norms[label]):.1f}", trigger.mask.mul(255).byte()),
            ("reversed trigger", on_grey(trigger)),
            ("on a clean image", stamped),
            ("a triggered image sent", inputs.triggered.images.pixels[0].cpu() if inputs.triggered else None),
        ]
        for axis, (title, image) in zip(row, shown, strict=True):
            axis.set_title(title if image is not None else "no triggered images sent", fontsize=9)
            axis.set_axis_off()
            if image is not None:
                axis.imshow(array(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure


def _norms(before: NeuralCleanse, after: NeuralCleanse | None) -> Figure:
    """Bars by label; where there are many labels, dots in the order of their norms."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    axis = figure.subplots()
    labels = len(before.norms)
    for found, name, color, shift in ((before, "before", BEFORE, -0.2), (after, "after", AFTER, 0.2)):
        if found is None:
            continue
        name = f"{name}: {INDEX[found.statistic]} {found.index:.1f}"
        if labels <= BARS:
            axis.bar(np.arange(labels) + shift, found.norms, width=0.4, color=color, label=name)
        else:
            _dots(axis, found, color, name)
        axis.axhline(float(np.median(found.norms)), color=color, linewidth=0.8, linestyle="--")
    if labels <= BARS:
        axis.set_xticks(range(labels))
        room = max(0.6, 4 - labels / 2)  # two labels do not fill a page
        axis.set_xlim(-room, labels - 1 + room)
    axis.set_xlabel("label" if labels <= BARS else "labels in the order of their norms")
    axis.set_ylabel("L1 norm of the reversed mask, pixels")
    axis.set_title("Neural Cleanse: the smallest trigger that leads to each label (dashed: median)", fontsize=10)
    axis.margins(y=0.25)  # room for the legend above
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, ncols=2, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _dots(axis: Axes, found: NeuralCleanse, color: str, name: str) -> None:
    """Smallest norm first, so that outliers are at the left end; the first flagged labels have their number."""
    order = np.argsort(found.norms, kind="stable").tolist()
    axis.scatter(range(len(order)), [found.norms[label] for label in order], s=6, color=color, label=name)
    for label in found.flagged[:SHOWN]:
        place = (order.index(label), found.norms[label])
        axis.annotate(f"label {label}", place, (5, 2), textcoords="offset points", fontsize=8, color=color)


def _history(history: list[dict[str, float]]) -> Figure:
    """Of the epochs, or, where nothing was trained, of the steps of a search: these have no training loss."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    axis = figure.subplots()
    epochs = [entry["epoch"] for entry in history]
    for name, color in (("training_loss", BEFORE), ("held_out_loss", AFTER)):
        if name in history[0]:
            values = [entry[name] for entry in history]
            axis.plot(epochs, values, color=color, marker=".", label=name.replace("_", " "))
    axis.set_xlabel("epoch" if "training_loss" in history[0] else "step")
    axis.set_ylabel("loss")
    axis.set_ylim(bottom=0)
    axis.set_title("Purification on clean images", fontsize=10)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
