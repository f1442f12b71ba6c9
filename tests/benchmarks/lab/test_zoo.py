from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.lab import zoo
from worker.algorithms.data import Images

TEST = Images(torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8), torch.arange(6) % 3)


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    network(torch.rand(5, 3, 8, 8))  # batch norm has seen something
    return network


def test_weights_and_triggered_images_come_back_bit_for_bit(tmp_path: Path) -> None:
    network, other = _network(0), _network(1)
    aims = [
        zoo.Aimed(255 - TEST.pixels[:4], torch.arange(4), 2),
        zoo.Aimed(TEST.pixels[[5, 1]] // 2, torch.tensor([5, 1]), 0),
    ]
    zoo.write(tmp_path / "folder" / "one.npz", network, aims, TEST)
    again = zoo.read(tmp_path / "folder" / "one.npz", other, TEST)
    for key, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert len(again) == 2
    for one, other_one in zip(aims, again, strict=True):
        assert torch.equal(one.pixels, other_one.pixels)
        assert torch.equal(one.index, other_one.index)
        assert one.target == other_one.target
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["one.npz"]


def test_a_patch_takes_little_room_and_no_image_is_in_the_file(tmp_path: Path) -> None:
    images = Images(torch.randint(256, (500, 3, 32, 32), dtype=torch.uint8), torch.zeros(500, dtype=torch.long))
    patched = images.pixels.clone()
    patched[:, :, -3:, -3:] = 255
    zoo.write(tmp_path / "one.npz", nn.Identity(), [zoo.Aimed(patched, torch.arange(500), 0)], images)
    with np.load(tmp_path / "one.npz") as arrays:
        assert not arrays["0/added"][:, :, :-3].any()
    assert (tmp_path / "one.npz").stat().st_size < images.pixels.numel() / 20


def test_a_file_that_would_run_something_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", **{"model/weight": np.array([print], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        zoo.read(tmp_path / "one.npz", nn.Identity(), TEST)
