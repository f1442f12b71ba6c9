"""Networks by name."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision

from redeem.architectures import ARCHITECTURES
from worker.algorithms.architectures import PAPER, build, options_of
from worker.algorithms.errors import UnknownArchitecture
from worker.algorithms.taps import find_taps

NARROW: dict[str, dict[str, Any]] = {"resnet18": {"width": 8}, "resnet50": {"width": 8}}


def small(name: str, in_channels: int = 3) -> Any:
    return build(f"paper/{name}", num_classes=10, in_channels=in_channels, options=NARROW.get(name, {})).eval()


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name", PAPER)
def test_paper_networks_classify_small_images(name: str, in_channels: int) -> None:
    network = small(name, in_channels)
    assert network(torch.rand(2, in_channels, 32, 32)).shape == (2, 10)
    assert network(torch.rand(2, in_channels, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "stage", "expected"),
    [
        ("resnet18", "layer1", (64, 32, 32)),
        ("resnet50", "layer1", (256, 32, 32)),
        ("squeezenet", "features.5", (256, 32, 32)),
        ("densenet121", "features.denseblock1", (256, 32, 32)),
        ("shufflenet_v2", "stage2", (116, 16, 16)),
        ("lenet5", "relu3", (120, 5, 5)),
    ],
)
def test_the_stem_keeps_small_images_large(name: str, stage: str, expected: tuple[int, ...]) -> None:
    network = build(f"paper/{name}", num_classes=10, in_channels=3, options={}).eval()
    (tap,) = (tap for tap in find_taps(network, torch.rand(2, 3, 32, 32)).used if tap.name == stage)
    assert (tap.channels, tap.height, tap.width) == expected


@pytest.mark.parametrize("name", PAPER)
def test_paper_networks_have_attention_maps_at_three_resolutions_or_more(name: str) -> None:
    assert len(find_taps(small(name), torch.rand(2, 3, 32, 32)).used) >= 3


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("squeezenet", "squeezenet1_0"),
        ("densenet121", "densenet121"),
        ("shufflenet_v2", "shufflenet_v2_x1_0"),
    ],
)
def test_paper_networks_differ_from_torchvisions_in_the_stem_alone(name: str, twin: str) -> None:
    ours = build(f"paper/{name}", num_classes=10, in_channels=3, options={}).state_dict()
    theirs = torchvision.models.get_model(twin, weights=None, num_classes=10).state_dict()
    assert list(ours) == list(theirs)
    different = {key for key in ours if ours[key].shape != theirs[key].shape}
    stem = {"squeezenet": "features.0.weight", "densenet121": "features.conv0.weight"}.get(name, "conv1.weight")
    assert different <= {stem}


def test_the_service_names_the_same_paper_networks_and_options() -> None:
    named = {name.removeprefix("paper/"): set(of) for name, of in ARCHITECTURES.items() if name.startswith("paper/")}
    assert named == {name: set(options_of(f"paper/{name}")) for name in PAPER}


def test_lenet5_is_the_network_of_1998_whatever_the_padding() -> None:
    network = small("lenet5", in_channels=1)
    image = torch.rand(3, 1, 28, 28)
    padded = F.pad(image, (2, 2, 2, 2))
    x = F.max_pool2d(F.relu(network.conv1(padded)), 2)
    x = F.max_pool2d(F.relu(network.conv2(x)), 2)
    x = F.relu(F.conv2d(x, network.conv3.weight, network.conv3.bias)).flatten(1)
    expected = network.fc2(F.relu(network.fc1(x)))
    torch.testing.assert_close(network(image), expected)
    torch.testing.assert_close(network(padded), expected)


def test_lenet5_refuses_larger_images() -> None:
    with pytest.raises(ValueError, match="up to 32×32"):
        small("lenet5")(torch.rand(1, 3, 40, 40))


def test_a_torchvision_network_takes_gray_images() -> None:
    network: Any = build("torchvision/resnet18", num_classes=5, in_channels=1, options={})
    assert network(torch.rand(2, 1, 64, 64)).shape == (2, 5)
    assert network.conv1(torch.rand(1, 1, 64, 64)).shape == (1, 64, 32, 32)


def test_auxiliary_logits_stay_inside() -> None:
    network = build("torchvision/googlenet", num_classes=5, in_channels=3, options={"aux_logits": True}).train()
    logits = network(torch.rand(2, 3, 224, 224))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 5)


def test_options_reach_the_network() -> None:
    network: Any = build("torchvision/vit_b_32", num_classes=5, in_channels=3, options={"image_size": 64})
    assert network.encoder.pos_embedding.shape[1] == 2 * 2 + 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("paper/resnet81", {}, "did you mean paper/resnet18"),
        ("torchvision/resnet19", {}, "torchvision/resnet1"),
        ("torchvision/fcn_resnet50", {}, "no network"),  # it segments, it does not classify
        ("timm/resnet19", {}, "timm/resnet1"),
        ("timm/resnet18.a1_in1k", {}, "timm/resnet18"),
        ("somewhere/resnet18", {}, "begins with paper/"),
        ("paper/lenet5", {"width": 8}, "no option 'width'; it has none"),
        ("paper/resnet18", {"width": 0}, "whole number from 1 to 1024, got 0"),
        ("paper/resnet18", {"width": 24.0}, r"got 24\.0"),
        ("paper/resnet18", {"width": True}, "got True"),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, "no option 'weights'"),
        ("torchvision/vit_b_16", {"image_size": 100}, "cannot be built"),
        ("torchvision/inception_v3", {"transform_input": 1}, "False or True, got 1"),
        ("timm/resnet18", {"pretrained": True}, "no option 'pretrained'"),
        ("timm/resnet18", {"checkpoint_path": "/etc/passwd"}, "no option 'checkpoint_path'"),
        ("timm/resnet18", {"pretrained_cfg": "x"}, "no option 'pretrained_cfg'"),
        ("timm/vit_tiny_patch16_224", {"img_size": 10**9}, "from 16 to 1024"),
    ],
)
def test_what_is_not_known_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownArchitecture, match=message):
        build(name, num_classes=10, in_channels=3, options=options)


@pytest.mark.parametrize(("num_classes", "in_channels"), [(1, 3), (10**12, 3), (10, 2), (10, 4)])
def test_class_and_channel_counts_have_limits(num_classes: int, in_channels: int) -> None:
    with pytest.raises(UnknownArchitecture, match="must be"):
        build("paper/resnet18", num_classes=num_classes, in_channels=in_channels, options={})


def test_transform_input_needs_colour() -> None:
    with pytest.raises(UnknownArchitecture, match="3 input channels"):
        build("torchvision/googlenet", num_classes=5, in_channels=1, options={"transform_input": True})


def test_without_timm_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnknownArchitecture, match="not installed"):
        build("timm/resnet18", num_classes=10, in_channels=3, options={})
    build("torchvision/resnet18", num_classes=10, in_channels=3, options={})
