"""Figures and images to files: what all pictures have in common."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Picture = tuple[str, str, bytes]
"""Name, media type, content."""

BEFORE, AFTER = "#b3261e", "#1b5e8c"


def svg(name: str, figure: Figure) -> Picture:
    """The same figure gives the same bytes."""
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "redeem", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return name, "image/svg+xml", file.getvalue()


def png(name: str, pixels: Tensor) -> Picture:
    """uint8 (C, H, W)."""
    file = io.BytesIO()
    Image.fromarray(array(pixels)).save(file, "PNG")
    return name, "image/png", file.getvalue()


def array(pixels: Tensor) -> NDArray[np.uint8]:
    """uint8 (C, H, W) as (H, W, C), or (H, W) where there is one channel."""
    array: NDArray[np.uint8] = pixels.cpu().permute(1, 2, 0).numpy()
    return array[:, :, 0] if array.shape[2] == 1 else array
