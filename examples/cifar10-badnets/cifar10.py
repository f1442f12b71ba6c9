"""CIFAR-10 as two npz files of JPEG bytes, to `Images`."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worker.algorithms.data import Images

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def read(path: Path) -> tuple[Images, list[str]]:
    """The images and the class names of one file.

    Arrays of the file: `jpeg` uint8 (all files back to back), `offsets` int64 (N + 1,), `labels` uint8 (N,),
    `classes` (10,).
    """
    with np.load(path, allow_pickle=False) as file:
        jpeg, offsets = file["jpeg"], file["offsets"]
        labels = torch.from_numpy(file["labels"].astype(np.int64))
        classes = [str(name) for name in file["classes"]]
    pixels = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(jpeg[start:end].tobytes())).convert("RGB"))
            for start, end in itertools.pairwise(offsets)
        ]
    )
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels), classes
