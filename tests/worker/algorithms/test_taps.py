from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.worker.algorithms.networks import small_classifier
from worker.algorithms.architectures import build
from worker.algorithms.attention import attention_distance
from worker.algorithms.classifier import Classifier
from worker.algorithms.errors import TooFewTaps, UnknownTap
from worker.algorithms.taps import Tap, find_taps, recording

RESNET = ("layer1", "layer2", "layer3", "layer4")
DENSENET = tuple(f"features.denseblock{block}" for block in (1, 2, 3, 4))
VGG = ("features.2", "features.6", "features.13", "features.20", "features.27")
ENCODER_LAYERS = tuple(f"encoder.layers.encoder_layer_{block}" for block in (2, 5, 8, 11))
BLOCKS = tuple(f"blocks.{block}" for block in (2, 5, 8, 11))
SIZES = (32, 64, 224)

# Where the taps are to be, and by how much the image is shrunk there, as the papers' tables of layers tell.
STRIDES: list[tuple[str, tuple[int, ...], dict[str, int]]] = [
    ("paper/resnet18", (32,), dict(zip(RESNET, (1, 2, 4, 8), strict=True))),
    ("paper/resnet50", (32,), dict(zip(RESNET, (1, 2, 4, 8), strict=True))),
    ("paper/squeezenet", (32,), {"features.5": 1, "features.10": 2, "features.12": 4}),
    ("paper/densenet121", (32,), dict(zip(DENSENET, (1, 2, 4, 8), strict=True))),
    ("paper/shufflenet_v2", (32,), {"stage2": 2, "stage3": 4, "conv5": 8}),
    ("torchvision/resnet18", SIZES, dict(zip(RESNET, (4, 8, 16, 32), strict=True))),
    ("torchvision/resnet50", SIZES, dict(zip(RESNET, (4, 8, 16, 32), strict=True))),
    ("torchvision/vgg11_bn", SIZES, dict(zip(VGG, (1, 2, 4, 8, 16), strict=True))),
    ("torchvision/densenet121", SIZES, dict(zip(DENSENET, (4, 8, 16, 32), strict=True))),
    ("torchvision/shufflenet_v2_x1_0", SIZES, {"stage2": 8, "stage3": 16, "conv5": 32}),
    (
        "torchvision/mobilenet_v3_small",
        SIZES,
        {"features.1": 4, "features.3": 8, "features.8": 16, "features.12": 32},
    ),
    (
        "torchvision/efficientnet_b0",
        SIZES,
        {"features.1": 2, "features.2": 4, "features.3": 8, "features.5": 16, "features.8": 32},
    ),
    ("torchvision/convnext_tiny", SIZES, {"features.1": 4, "features.3": 8, "features.5": 16, "features.7": 32}),
    ("torchvision/vit_b_16", SIZES, dict.fromkeys(ENCODER_LAYERS, 16)),
    ("torchvision/swin_t", SIZES, {"features.1": 4, "features.3": 8, "features.5": 16, "features.7": 32}),
    ("timm/resnet18", SIZES, dict(zip(RESNET, (4, 8, 16, 32), strict=True))),
    ("timm/resnet50", SIZES, dict(zip(RESNET, (4, 8, 16, 32), strict=True))),
    # timm's first fully connected layer of VGG is a 7×7 convolution, which leaves one pixel of an image of 224.
    ("timm/vgg11_bn", SIZES, {**dict(zip(VGG, (1, 2, 4, 8, 16), strict=True)), "pre_logits": 224}),
    ("timm/densenet121", SIZES, dict(zip(DENSENET, (4, 8, 16, 32), strict=True))),
    ("timm/mobilenetv3_small_100", SIZES, {"blocks.0": 4, "blocks.1": 8, "blocks.3": 16, "blocks.5": 32}),
    (
        "timm/efficientnet_b0",
        (64, 224),
        {"blocks.0": 2, "blocks.1": 4, "blocks.2": 8, "blocks.4": 16, "bn2": 32},
    ),
    # Of a single pixel, the normalisation that follows is not looked for.
    (
        "timm/efficientnet_b0",
        (32,),
        {"blocks.0": 2, "blocks.1": 4, "blocks.2": 8, "blocks.4": 16, "conv_head": 32},
    ),
    ("timm/convnext_tiny", SIZES, {"stages.0": 4, "stages.1": 8, "stages.2": 16, "stages.3": 32}),
    ("timm/vit_tiny_patch16_224", SIZES, dict.fromkeys(BLOCKS, 16)),
    ("timm/swin_tiny_patch4_window7_224", SIZES, {"layers.0": 4, "layers.1": 8, "layers.2": 16, "layers.3": 32}),
]
INCEPTION = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")

# Convolutions without padding make other sizes than a power of two of the image's. timm has no SqueezeNet and no
# ShuffleNetV2. Inception takes nothing below 75 pixels, and torchvision's, with its auxiliary head, not 224.
SIDES: list[tuple[str, int, dict[str, int]]] = [
    ("paper/lenet5", 28, {"relu1": 28, "relu2": 10, "relu3": 5}),
    ("paper/lenet5", 32, {"relu1": 28, "relu2": 10, "relu3": 5}),
    ("torchvision/squeezenet1_1", 32, {"features.4": 7, "features.7": 3, "features.12": 1}),
    ("torchvision/squeezenet1_1", 64, {"features.4": 15, "features.7": 7, "features.12": 3}),
    ("torchvision/squeezenet1_1", 224, {"features.4": 55, "features.7": 27, "features.12": 13}),
    ("torchvision/inception_v3", 299, dict(zip(INCEPTION, (147, 71, 35, 17, 8), strict=True))),
    ("timm/inception_v3", 224, dict(zip(INCEPTION, (109, 52, 25, 12, 5), strict=True))),
]
QUICK = {
    *(("paper/lenet5", size) for size in (28, 32)),
    *((f"paper/{name}", 32) for name in ("resnet18", "resnet50", "squeezenet", "densenet121", "shufflenet_v2")),
    *((f"torchvision/{name}", 64) for name in ("resnet18", "squeezenet1_1")),
    *((f"timm/{name}", 32) for name in ("convnext_tiny", "vit_tiny_patch16_224")),
    ("torchvision/mobilenet_v3_small", 224),
}
OPTIONS = {
    "torchvision/vit_b_16": "image_size",
    "timm/vit_tiny_patch16_224": "img_size",
    "timm/swin_tiny_patch4_window7_224": "img_size",
}


def cases() -> list[object]:
    by_stride = [
        (name, size, {tap: math.ceil(size / stride) for tap, stride in strides.items()})
        for name, sizes, strides in STRIDES
        for size in sizes
    ]
    return [
        pytest.param(*case, id=f"{case[0]}-{case[1]}", marks=() if case[:2] in QUICK else pytest.mark.slow)
        for case in [*by_stride, *SIDES]
    ]


def classifier(name: str, size: int) -> Classifier:
    channels = 1 if name == "paper/lenet5" else 3
    options: dict[str, int] = {OPTIONS[name]: size} if name in OPTIONS else {}
    if name.startswith("paper/resnet"):
        options = {"width": 16}
    network = build(name, num_classes=3, in_channels=channels, options=options)
    return Classifier(network, [0.5] * channels, [0.25] * channels)


def images(size: int, channels: int = 3, count: int = 2) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "size", "sides"), cases())
def test_taps_of_a_network_and_a_step_with_them(name: str, size: int, sides: dict[str, int]) -> None:
    model = classifier(name, size).train()
    x = images(size, channels=len(model.mean))
    found = find_taps(model, x)
    assert sizes(found.used) == {f"network.{tap}": (side, side) for tap, side in sides.items() if side > 1}
    assert {skip.tap.name: skip.tap.height for skip in found.skipped} == {
        f"network.{tap}": side for tap, side in sides.items() if side == 1
    }
    assert model.training

    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with recording(model, found.used) as maps:
        loss = F.cross_entropy(model(x), torch.tensor([0, 1]))
    assert {tap.name: (2, tap.channels, tap.height, tap.width) for tap in found.used} == {
        key: tuple(features.shape) for key, features in maps.items()
    }
    for shallow, deep in itertools.pairwise(found.used):
        loss = loss + 300 * attention_distance(maps[shallow.name], maps[deep.name])
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    optimizer.step()
    after = model.state_dict()
    assert {key: tensor.shape for key, tensor in before.items()} == {key: t.shape for key, t in after.items()}
    assert any(not torch.equal(before[key], after[key]) for key in before)


def sizes(taps: list[Tap]) -> dict[str, tuple[int, int]]:
    return {tap.name: (tap.height, tap.width) for tap in taps}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def convolution(inputs: int, outputs: int, **options: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, **options), nn.BatchNorm2d(outputs), nn.ReLU())


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)]


class Branches(nn.Module):
    """A block of two branches, the first of which ends at the resolution of the input, in convolutions and strides."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(inputs, outputs, 1, stride=2)
        self.first = convolution(inputs, outputs)
        self.second = convolution(outputs, outputs, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.short(x)  # type: ignore[no-any-return]


def test_nothing_within_a_block_is_tapped() -> None:
    network = nn.Sequential(convolution(3, 4), Branches(4, 6), Branches(6, 8), *head(8))
    assert sizes(find_taps(network, images(16)).used) == {"1": (8, 8), "2": (4, 4)}


class SqueezeAndExcitation(nn.Module):
    """Strided, then weighed channel by channel by way of a map of one pixel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body, self.pool = convolution(inputs, outputs, stride=2), nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.expand = nn.Conv2d(outputs, 2, 1), nn.Conv2d(2, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x * self.expand(self.squeeze(self.pool(x))).sigmoid()  # type: ignore[no-any-return]


def test_side_way_over_one_pixel_does_not_take_a_block_apart() -> None:
    network = nn.Sequential(convolution(3, 4), SqueezeAndExcitation(4, 6), SqueezeAndExcitation(6, 8), *head(8))
    assert sizes(find_taps(network, images(16)).used) == {"1": (8, 8), "2": (4, 4)}


def test_stem_is_kept_in_a_network_without_blocks() -> None:
    pool = nn.MaxPool2d(2)  # run twice, and no matter: it is no layer
    network = nn.Sequential(convolution(3, 4), pool, convolution(4, 8), pool, convolution(8, 8), *head(8))
    assert sizes(find_taps(network, images(16)).used) == {"0": (16, 16), "2": (8, 8), "4": (4, 4)}


def test_stem_of_two_convolutions_is_no_stem() -> None:
    network = nn.Sequential(convolution(3, 4), convolution(4, 4), Branches(4, 6), Branches(6, 8), *head(8))
    assert sizes(find_taps(network, images(16)).used) == {"1": (16, 16), "2": (8, 8), "3": (4, 4)}


def test_container_that_holds_all_layers_is_taken_apart_though_it_shrinks_the_map_once() -> None:
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 1), nn.ReLU())
    network = nn.Sequential(features, *head(8))
    assert sizes(find_taps(network, images(8)).used) == {"0.1": (8, 8), "0.4": (4, 4)}


def test_convolution_without_padding_does_not_begin_a_new_level() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU()]
    network = nn.Sequential(*layers, *head(8))
    assert sizes(find_taps(network, images(20)).used) == {"1": (16, 16), "4": (6, 6)}


def test_dropout_after_an_activation_is_not_read() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout2d(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 1), nn.Dropout()]
    network = nn.Sequential(*layers, *head(8))
    assert sizes(find_taps(network, images(10)).used) == {"1": (8, 8), "4": (4, 4)}


def test_convolutional_classifier_is_no_tap() -> None:
    layers = [convolution(3, 4), convolution(4, 8, stride=2), nn.Conv2d(8, 2, 1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert sizes(find_taps(network, images(8)).used) == {"0": (8, 8), "1": (4, 4)}


def test_convolutions_after_global_pooling_are_neither_tapped_nor_reported() -> None:
    layers = [convolution(3, 4), convolution(4, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)]
    found = find_taps(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 2)), images(8))
    assert (sizes(found.used), found.skipped) == ({"0": (8, 8), "1": (4, 4)}, [])


def test_isotropic_network_is_tapped_at_four_blocks_evenly_spaced() -> None:
    blocks = [nn.Sequential(convolution(4, 4), nn.Conv2d(4, 4, 1)) for _ in range(8)]
    network = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Sequential(*blocks), *head(4))
    assert list(sizes(find_taps(network, images(16)).used)) == ["1.1", "1.3", "1.5", "1.7"]


class SharedActivation(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2)
        self.relu = nn.ReLU(inplace)
        self.head = nn.Sequential(*head(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(self.first(x)))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("inplace", [False, True])
def test_activation_that_runs_twice_is_not_tapped(inplace: bool) -> None:
    model = SharedActivation(inplace)
    found = find_taps(model, images(9)).used
    assert sizes(found) == {"first": (9, 9), "second": (4, 4)}
    with recording(model, found) as maps:
        model(images(9)).sum().backward()
    assert (maps["first"] >= 0).all() == inplace


def test_dead_map_is_skipped_and_said_to_be_dead() -> None:
    model = small_classifier()
    last = model.network.layer3[-1]
    nn.init.constant_(last.bn2.weight, 0)
    nn.init.constant_(last.bn2.bias, -100)
    nn.init.constant_(model.network.layer4[0].bn1.bias, 1)  # so that something comes after it
    found = find_taps(model, images(32, count=3))
    assert list(sizes(found.used)) == ["network.layer1", "network.layer2", "network.layer4"]
    assert [(skip.tap.name, skip.reason) for skip in found.skipped] == [
        ("network.layer3", "dead: all zero on 3 images")
    ]


def test_map_that_is_alive_on_one_image_is_not_dead() -> None:
    layers = [nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 4, 2, stride=2, bias=False)]
    network, black, white = nn.Sequential(*layers, *head(4)), torch.zeros(3, 8, 8), torch.ones(3, 8, 8)
    assert len(find_taps(network, torch.stack([black, white])).used) == 2
    with pytest.raises(TooFewTaps, match="dead: all zero on 2 images"):
        find_taps(network, torch.stack([black, black]))


def test_too_few_taps_are_refused_with_what_was_found() -> None:
    with pytest.raises(TooFewTaps) as refused:
        find_taps(classifier("torchvision/resnet18", 8), images(8))
    message = str(refused.value)
    assert "found: network.layer1 (2×2); skipped: " in message
    assert "network.relu (4×4; the stem, one convolution before the blocks)" in message
    assert "network.layer4 (1×1; a 1×1 map: normalised, it is the constant one)" in message


def test_network_of_one_layer_is_refused() -> None:
    with pytest.raises(TooFewTaps, match=r"found: 0\.2 \(8×8\)$"):
        find_taps(nn.Sequential(convolution(3, 4), *head(4)), images(8))
    with pytest.raises(TooFewTaps, match=r"found: none$"):
        find_taps(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), images(8))


# Taps by name


def test_taps_by_name_are_those_in_the_order_of_the_pass() -> None:
    model = small_classifier()
    found = find_taps(model, images(32), ["layer4", "network.layer2.0.conv1", "layer1.1"])
    assert [tap.name for tap in found.used] == ["network.layer1.1", "network.layer2.0.conv1", "network.layer4"]


def test_degenerate_taps_are_skipped_though_they_were_named() -> None:
    found = find_taps(small_classifier(), images(32), ["layer1", "layer2", "avgpool"])
    assert [tap.name for tap in found.used] == ["network.layer1", "network.layer2"]
    assert [skip.tap.name for skip in found.skipped] == ["network.avgpool"]


def test_unknown_name_is_refused_with_those_that_are_close() -> None:
    with pytest.raises(UnknownTap, match=r"no module 'layer5'; did you mean layer\d or layer\d or layer\d\?"):
        find_taps(small_classifier(), images(16), ["layer1", "layer5"])
    with pytest.raises(UnknownTap, match="no module ''"):
        find_taps(small_classifier(), images(16), [""])


def test_name_that_gives_no_map_or_several_is_refused() -> None:
    with pytest.raises(UnknownTap, match="'fc' gives no map"):
        find_taps(small_classifier(), images(16), ["layer1", "fc"])
    with pytest.raises(UnknownTap, match=r"'layer1.0.relu' runs 2 times"):
        find_taps(small_classifier(), images(16), ["layer1", "layer1.0.relu"])


# The model stays as it was


class Auxiliary(nn.Module):
    """As Inception: another classifier on the way, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = convolution(3, 4), convolution(4, 8, stride=2)
        self.auxiliary = nn.Sequential(convolution(8, 8, stride=2), *head(8))
        self.head = nn.Sequential(*head(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return self.head(x) + self.auxiliary(x) if self.training else self.head(x)  # type: ignore[no-any-return]


def test_auxiliary_head_is_no_tap() -> None:
    assert list(sizes(find_taps(Auxiliary().train(), images(16)).used)) == ["first", "second"]


def test_modes_are_restored_module_by_module() -> None:
    model = small_classifier().train()
    model.network.bn1.eval()
    before = {name: module.training for name, module in model.named_modules()}
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    find_taps(model, images(16))
    assert before == {name: module.training for name, module in model.named_modules()}
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_gone_even_when_the_pass_raises() -> None:
    model = small_classifier().train()
    found = find_taps(model, images(16)).used
    model.network.layer3[0].conv1 = nn.Conv2d(3, 3, 1)
    with pytest.raises(RuntimeError, match="channels"), recording(model, found):
        model(images(16))
    with pytest.raises(RuntimeError, match="channels"):
        find_taps(model, images(16))
    assert hooks(model) == 0
    assert model.training


def test_recording_is_the_pass_itself() -> None:
    model = small_classifier().train()
    found = find_taps(model, images(16)).used
    passes: list[int] = []
    model.network.conv1.register_forward_hook(lambda *_: passes.append(1))
    with recording(model, found) as maps, torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images(16))
    assert len(passes) == 1
    assert maps["network.layer4"].dtype == torch.bfloat16
    gradient = torch.autograd.grad(logits.float().sum(), maps["network.layer1"])[0]
    assert gradient.abs().sum() > 0
