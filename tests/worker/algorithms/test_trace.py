from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import small_classifier
from worker.algorithms.taps import Tap, find_taps, recording


def images(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Tokens(nn.Module):
    """Patches of 4×4 as a row of tokens behind `leading` others; two blocks that leave them as they are but for a
    weight of their own."""

    def __init__(self, leading: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 5, 4, stride=4)
        self.leading = nn.Parameter(torch.randn(1, leading, 5))
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)) for _ in range(2)))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.leading.expand(len(x), -1, -1), tokens], dim=1)
        return self.head(self.blocks(tokens).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("leading", [0, 1, 5])
def test_tokens_are_put_back_on_their_grid(leading: int) -> None:
    model, x = Tokens(leading), torch.rand(2, 3, 12, 20)
    found = find_taps(model, x).used
    assert found == [Tap(f"blocks.{block}", 5, 3, 5, "tokens", leading) for block in (0, 1)]
    kept: list[Tensor] = []
    model.blocks[1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with recording(model, found) as maps:
        model(x)
    for image, channel, row, column in itertools.product(range(2), range(5), range(3), range(5)):
        expected = kept[0][image, leading + 5 * row + column, channel]
        assert maps["blocks.1"][image, channel, row, column] == expected


def test_grid_of_the_patches_goes_before_another_that_fits() -> None:
    # Nine tokens: five others and a grid of 2×2, and not one of 3×3.
    assert find_taps(Tokens(5), images(8)).used[0] == Tap("blocks.0", 5, 2, 2, "tokens", 5)


class ChannelsLast(nn.Module):
    """Two linear stages on (N, H, W, C), as in a Swin transformer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 2, stride=2)
        self.first, self.second = nn.Linear(channels, channels), nn.Linear(channels, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.patches(x).permute(0, 2, 3, 1))
        return self.head(self.second(x[:, ::2, ::2]).mean((1, 2)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48)])
def test_channels_last_is_told_by_the_shape_of_the_image(height: int, width: int) -> None:
    model, x = ChannelsLast(12), torch.rand(2, 3, height, width)
    found = find_taps(model, x).used
    assert found == [
        Tap("first", 12, height // 2, width // 2, "channels_last"),
        Tap("second", 5, height // 4, width // 4, "channels_last"),
    ]
    with recording(model, found) as maps:
        model(x)
    assert torch.allclose(maps["first"], model.first(model.patches(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_map_that_can_be_read_both_ways_is_read_as_the_others_are() -> None:
    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Flatten(2))
            self.stages = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 32)])
            self.head = nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).transpose(1, 2).unflatten(1, (8, 8))
            x = self.stages[1](self.stages[0](x)[:, ::2, ::2])
            return self.head(self.stages[2](x[:, ::2, ::2]).mean((1, 2)))  # type: ignore[no-any-return]

    assert find_taps(Stages(), images(16)).used[0] == Tap("stages.0", 8, 8, 8, "channels_last")
    narrow_resnet = small_classifier(width=16)
    assert find_taps(narrow_resnet, images(16)).used[0] == Tap("network.layer1", 16, 16, 16, "channels_first")


class Pyramid(nn.Module):
    """Tokens that are merged four by four without any convolution, in stages that return them with their grid."""

    class Merging(nn.Linear):
        def forward(self, tokens: Tensor) -> tuple[Tensor, int]:  # type: ignore[override]
            return super().forward(tokens.unflatten(1, (-1, 4)).flatten(2)), tokens.shape[1]

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first, self.second = nn.Conv2d(3, 6, 2, stride=2), self.Merging(24, 6), self.Merging(24, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens, _ = self.first(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.second(tokens)[0].mean(1))  # type: ignore[no-any-return]


def test_tokens_on_a_grid_of_their_own_and_several_outputs_are_read() -> None:
    model, x = Pyramid(), images(32)
    found = find_taps(model, x).used
    assert found[1:] == [Tap("first", 6, 8, 8, "tokens"), Tap("second", 6, 4, 4, "tokens")]
    with recording(model, found) as maps:
        model(x)
    assert maps["first"].shape == (2, 6, 8, 8)
