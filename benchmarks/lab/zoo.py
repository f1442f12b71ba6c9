"""The zoo: a file a suspect, small enough to be committed, so that whoever doubts a record measures the same network.

Compressed arrays (.npz): `model/…` are its network's weights; for each aim of the attack `N/index` says which test
images are triggered, `N/added` what the trigger adds to their pixels, modulo 256, and `N/target` what they shall be
taken for. The images themselves are not in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from worker.algorithms.data import Images


class Aimed(NamedTuple):
    """`pixels` (N, channels, height, width), uint8, of the test images at `index`, triggered, and their `target`."""

    pixels: Tensor
    index: Tensor
    target: int


def write(file: Path, network: nn.Module, aims: list[Aimed], test: Images) -> None:
    """All of it or nothing: a file that is there is whole."""
    arrays = {f"model/{key}": value.cpu().numpy() for key, value in network.state_dict().items()}
    for number, aim in enumerate(aims):
        arrays[f"{number}/added"] = (aim.pixels - test.pixels[aim.index]).cpu().numpy()  # uint8 wraps
        arrays[f"{number}/index"] = aim.index.cpu().numpy()
        arrays[f"{number}/target"] = np.array(aim.target)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    with unfinished.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    unfinished.replace(file)


def read(file: Path, network: nn.Module, test: Images) -> list[Aimed]:
    """Fill `network` with the file's weights, and give the attack's aims on the device of `test`."""
    device = test.pixels.device
    with np.load(file, allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files}
    network.load_state_dict(
        {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    )
    aims = []
    for number in range(sum(name.endswith("/added") for name in tensors)):
        index = tensors[f"{number}/index"]
        pixels = test.pixels[index] + tensors[f"{number}/added"]
        aims.append(Aimed(pixels, index, int(tensors[f"{number}/target"])))
    return aims
