from __future__ import annotations

import torch
import torch.nn.functional as F

from worker.algorithms.augment import crop, crop_and_flip, unchanged


def images(count: int = 64) -> torch.Tensor:
    return torch.randint(1, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def every_crop(image: torch.Tensor, padding: int = 4) -> set[bytes]:
    padded = F.pad(image, (padding,) * 4)
    size = image.shape[1]
    return {
        padded[:, top : top + size, left : left + size].contiguous().numpy().tobytes()
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


def test_each_image_becomes_one_of_its_crops_or_of_its_mirror_image(generator: torch.Generator) -> None:
    originals = images()
    out = crop_and_flip(originals, generator)
    assert out.shape == originals.shape
    assert out.dtype == torch.uint8
    mirrored = 0
    for original, augmented in zip(originals, out, strict=True):
        content = augmented.contiguous().numpy().tobytes()
        straight, flipped = every_crop(original), every_crop(original.flip(2))
        assert content in straight | flipped
        mirrored += content not in straight
    assert 16 <= mirrored <= 48  # half of 64, within five sigma


def test_crop_never_mirrors(generator: torch.Generator) -> None:
    originals = images()
    for original, augmented in zip(originals, crop(originals, generator), strict=True):
        assert augmented.contiguous().numpy().tobytes() in every_crop(original)


def test_all_offsets_occur(generator: torch.Generator) -> None:
    point = torch.zeros(2000, 1, 9, 9, dtype=torch.uint8)
    point[:, :, 4, 4] = 255
    places = crop(point, generator).flatten(1).float().argmax(1).unique()
    assert len(places) == 81


def test_the_same_generator_state_gives_the_same_images() -> None:
    one, two = (crop_and_flip(images(), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, crop_and_flip(images(), torch.Generator().manual_seed(4)))


def test_the_result_is_laid_out_channels_last(generator: torch.Generator) -> None:
    assert crop_and_flip(images(), generator).is_contiguous(memory_format=torch.channels_last)


def test_unchanged_is(generator: torch.Generator) -> None:
    assert torch.equal(unchanged(images(), generator), images())
