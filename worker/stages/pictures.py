"""What the numbers look like: the reversed triggers, their norms, the history. SVG, and one PNG for other pictures."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from redeem.contract import Assessment
from worker.algorithms.detectors.neural_cleanse import ReversedTriggers
from worker.algorithms.triggers import Trigger
from worker.stages.load import Inputs

Picture = tuple[str, str, bytes]
"""Name, media type, content."""

SHOWN = 3  # labels whose triggers are drawn, smallest norm first
BEFORE, AFTER = "#b3261e", "#1b5e8c"


def pictures(
    inputs: Inputs,
    before: Assessment,
    after: Assessment,
    triggers: ReversedTriggers | None,
    history: list[dict[str, float]],
) -> list[Picture]:
    """All pictures of a job; those of Neural Cleanse only where it ran. The same job gives the same bytes."""
    drawn = [("history.svg", "image/svg+xml", _svg(_history(history)))] if history else []
    if triggers is None or before.neural_cleanse is None:
        return drawn
    labels = before.neural_cleanse.flagged[:SHOWN] or [int(triggers.norms.argmin())]
    drawn.append(("triggers.svg", "image/svg+xml", _svg(_triggers(inputs, triggers, labels))))
    drawn.append(("norms.svg", "image/svg+xml", _svg(_norms(before, after))))
    drawn.extend((f"reversed-trigger-{label}.png", "image/png", _png(on_grey(triggers[label]))) for label in labels)
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
                axis.imshow(_array(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure


def _norms(before: Assessment, after: Assessment) -> Figure:
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    axis = figure.subplots()
    for assessment, name, color, shift in ((before, "before", BEFORE, -0.2), (after, "after", AFTER, 0.2)):
        found = assessment.neural_cleanse
        if found is not None:
            places = np.arange(len(found.norms)) + shift
            axis.bar(places, found.norms, width=0.4, color=color, label=f"{name}: anomaly index {found.index:.1f}")
            axis.axhline(float(np.median(found.norms)), color=color, linewidth=0.8, linestyle="--")
    axis.set_xlabel("label")
    axis.set_ylabel("L1 norm of the reversed mask, pixels")
    axis.set_title("Neural Cleanse: the smallest trigger that leads to each label (dashed: median)", fontsize=10)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    axis.margins(y=0.25)  # room for the legend above the bars
    axis.legend(frameon=False, ncols=2, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _history(history: list[dict[str, float]]) -> Figure:
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    axis = figure.subplots()
    epochs = [entry["epoch"] for entry in history]
    for name, color in (("training_loss", BEFORE), ("held_out_loss", AFTER)):
        axis.plot(epochs, [entry[name] for entry in history], color=color, label=name.replace("_", " "))
    axis.set_xlabel("epoch")
    axis.set_ylabel("loss")
    axis.set_ylim(bottom=0)
    axis.set_title("Purification on clean images", fontsize=10)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _array(image: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = image.cpu().permute(1, 2, 0).numpy()
    return array[:, :, 0] if array.shape[2] == 1 else array


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "redeem", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _png(image: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_array(image)).save(file, "PNG")
    return file.getvalue()
