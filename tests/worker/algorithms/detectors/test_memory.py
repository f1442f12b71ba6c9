from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.worker.algorithms.networks import small_classifier
from worker.algorithms.detectors import memory
from worker.algorithms.detectors.memory import bytes_kept, inputs_at_once


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.algorithms.precision.has_fast_bfloat16", lambda device: False)


def test_what_an_image_keeps_is_counted() -> None:
    # A convolution keeps its input, a ReLU its output. The weights are kept once, however many the images.
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten())
    assert bytes_kept(network, torch.zeros(3, 8, 8)) == 4 * 64 * (3 + 16)


def test_a_wider_network_and_larger_images_take_more() -> None:
    image, larger = torch.zeros(3, 16, 16), torch.zeros(3, 32, 32)
    narrow, wide = (small_classifier(width=width).requires_grad_(False) for width in (8, 16))
    assert bytes_kept(wide, image) == pytest.approx(2 * bytes_kept(narrow, image), rel=0.1)
    assert bytes_kept(narrow, larger) == pytest.approx(4 * bytes_kept(narrow, image), rel=0.1)


def test_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = small_classifier().requires_grad_(False), torch.zeros(3, 16, 16)
    most = memory.MOST_PIXELS["cpu"] // 256
    assert inputs_at_once(model, image) == most
    monkeypatch.setattr(memory, "CPU_ROOM", 2 * bytes_kept(model, image) * (most - 1))
    assert inputs_at_once(model, image) == most // 2
    monkeypatch.setattr(memory, "CPU_ROOM", 0)
    assert inputs_at_once(model, image) == 1


def test_one_huge_image_at_least() -> None:
    image = torch.zeros(1, 1, 1).expand(3, 2048, 2048)
    assert inputs_at_once(nn.Flatten(), image) == 1


def test_on_a_gpu_half_of_what_is_free_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # What torch holds and does not use is free as well, though the driver does not know.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert memory._room(torch.device("cuda")) == 400
