"""Exported networks are the networks that they were: as they come, after a step of training, and as files again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import timm
import torch
import torchvision
from onnx import helper
from torch import nn

from tests.worker import onnx_files
from tests.worker.onnx_files import KEEP_BATCH_NORMS, exported, lived_in
from worker.algorithms.architectures import build
from worker.algorithms.errors import AlgorithmError
from worker.algorithms.graphs import Converted, convert
from worker.algorithms.taps import find_taps
from worker.stages.onnx_graph import Read, as_stored, read_onnx, rewritten

TOLERANCE = 1e-4


def resnet() -> nn.Module:
    return build("paper/resnet18", num_classes=5, in_channels=3, options={"width": 8})


def mobilenet() -> nn.Module:
    return torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.25)


def densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5)


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in [(3, 8), (8, 16), (16, 16)]:
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(16 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 5))


def shufflenet() -> nn.Module:
    return torchvision.models.shufflenet_v2_x0_5(num_classes=5)


def mobilenet_v3() -> nn.Module:
    return timm.create_model("mobilenetv3_small_050", num_classes=5)


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2
    )


def swin() -> nn.Module:
    options = {"img_size": 56, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2), "window_size": 7}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **options)


def read(content: bytes, size: int) -> tuple[Read, Converted]:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        found = read_onnx(Path(file.name))
    return found, convert(found.graph, (size, size))


def agree(content: bytes, network: nn.Module, size: int, counts: tuple[int, ...] = (1, 3)) -> None:
    for count in counts:
        images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            torch.testing.assert_close(
                network.eval()(images), onnx_files.run(content, images), rtol=TOLERANCE, atol=TOLERANCE
            )


def train_a_step(network: nn.Module, size: int) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.01)
    nn.functional.cross_entropy(network(torch.rand(8, 3, size, size)), torch.arange(8) % 5).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("build", "size", "options"),
    [
        (resnet, 32, {}),
        (resnet, 32, KEEP_BATCH_NORMS),
        (mobilenet, 32, KEEP_BATCH_NORMS),
        (mobilenet_v3, 64, {}),
        (densenet, 64, {}),
        (vgg, 32, KEEP_BATCH_NORMS),
        (shufflenet, 64, {}),
        (vit, 32, {}),
        (swin, 56, {}),
    ],
)
def test_a_network_is_what_its_file_says_before_and_after_training(
    build: Callable[[], nn.Module], size: int, options: dict[str, object]
) -> None:
    content = exported(lived_in(build()), size, **options)
    found, converted = read(content, size)
    assert (converted.num_classes, converted.in_channels) == (5, 3)
    agree(content, converted.network, size)

    before = {name: tensor.clone() for name, tensor in found.graph.tensors.items()}
    train_a_step(converted.network, size)
    weights = as_stored(converted.uses, converted.network.state_dict())
    trained = rewritten(found, weights)
    agree(trained, converted.network, size)

    assert not torch.equal(
        onnx_files.run(trained, torch.ones(1, 3, size, size)), onnx_files.run(content, torch.ones(1, 3, size, size))
    )
    assert all(weights[name].shape == before[name].shape for name in weights)
    assert len(trained) == len(content)


def test_all_weights_of_an_exported_network_are_trained() -> None:
    network = lived_in(vgg())
    _, converted = read(exported(network, 32, **KEEP_BATCH_NORMS), 32)
    assert {use.tensor for use in converted.uses} == {
        name for name in network.state_dict() if not name.endswith("num_batches_tracked")
    }
    assert sum(parameter.numel() for parameter in converted.network.parameters()) == sum(
        parameter.numel() for parameter in network.parameters()
    )
    norms = [module for module in converted.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == pytest.approx([0.1] * 3)


def test_class_token_positions_and_biases_of_a_transformer_are_trained() -> None:
    _, converted = read(exported(lived_in(vit()), 32), 32)
    tensors = {use.tensor for use in converted.uses}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias", "head.bias"} <= tensors
    linears = [module for module in converted.network.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 3 * 4 + 1
    assert all(linear.bias is not None for linear in linears)


def test_nothing_but_the_weights_changes_in_the_file() -> None:
    content = exported(lived_in(vgg()), 32)
    found, converted = read(content, 32)
    train_a_step(converted.network, 32)
    changed = rewritten(found, as_stored(converted.uses, converted.network.state_dict()))
    before, after = onnx.load_from_string(content), onnx.load_from_string(changed)
    for model in (before, after):
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
    assert before == after


@pytest.mark.parametrize("options", [{}, KEEP_BATCH_NORMS], ids=["folded", "kept"])
@pytest.mark.parametrize(("build", "size"), [(resnet, 32), (densenet, 64), (shufflenet, 64), (mobilenet, 64)])
def test_attention_is_read_where_it_is_in_the_network_as_written(
    build: Callable[[], nn.Module], size: int, options: dict[str, object]
) -> None:
    network = lived_in(build())
    _, converted = read(exported(network, size, **options), size)
    images = torch.rand(4, 3, size, size)
    native, found = (find_taps(each, images).used for each in (network, converted.network))
    assert [(tap.channels, tap.height) for tap in found] == [(tap.channels, tap.height) for tap in native]


def test_taps_of_a_transformer_are_its_blocks() -> None:
    _, converted = read(exported(lived_in(vit()), 32), 32)
    taps = find_taps(converted.network, torch.rand(4, 3, 32, 32)).used
    assert [(tap.channels, tap.height, tap.leading_tokens) for tap in taps] == [(24, 4, 1)] * 4


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("build", "size"), [(vgg, 32), (resnet, 32), (vit, 32)])
def test_a_file_with_a_fixed_batch_takes_any(build: Callable[[], nn.Module], size: int, batch: int) -> None:
    network = lived_in(build())
    _, converted = read(exported(network, size, batch=batch), size)
    images = torch.rand(5, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(converted.network(images), network(images), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_final_softmax_is_left_away_and_said() -> None:
    network = lived_in(vgg())
    content = exported(nn.Sequential(network, nn.Softmax(1)), 32, **KEEP_BATCH_NORMS)
    _, converted = read(content, 32)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(converted.network(images), network(images), rtol=TOLERANCE, atol=TOLERANCE)
        torch.testing.assert_close(converted.network(images).softmax(1), onnx_files.run(content, images))
    assert converted.ends_in_softmax
    assert [note.code for note in converted.notes] == ["softmax_left_away"]


def test_folded_batch_norms_are_said() -> None:
    _, folded = read(exported(lived_in(vgg()), 32), 32)
    _, kept = read(exported(lived_in(vgg()), 32, **KEEP_BATCH_NORMS), 32)
    assert [note.code for note in folded.notes] == ["batch_norms_folded"]
    assert list(kept.notes) == []


def test_a_normalisation_inside_is_not_trained() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = lived_in(vgg())
            self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
            self.register_buffer("scale", torch.tensor([4.0, 5.0, 6.0]).view(1, 3, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network((x - self.mean) * self.scale)

    content = exported(Normalised().eval(), 32)
    _, converted = read(content, 32)
    agree(content, converted.network, 32)
    assert {"mean", "scale"}.isdisjoint(use.tensor for use in converted.uses)


@pytest.mark.parametrize(
    ("nodes", "code", "says"),
    [
        ([helper.make_node("Tile", ["images", "sizes"], ["features"])], "onnx_unsupported_operator", "Tile"),
        (
            [helper.make_node("DepthToSpace", ["images"], ["features"], blocksize=2)],
            "onnx_unsupported_operator",
            "Depth",
        ),
        (
            [
                helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
                helper.make_node("Add", ["images", "zeros"], ["features"]),
            ],
            "onnx_graph_too_large",
            "ConstantOfShape",
        ),
        (
            [
                helper.make_node("Expand", ["weight", "huge"], ["zeros"]),
                helper.make_node("Add", ["images", "zeros"], ["features"]),
            ],
            "onnx_graph_too_large",
            "Expand",
        ),
        (
            [
                *(helper.make_node("ConstantOfShape", ["large"], [f"large{number}"]) for number in range(17)),
                helper.make_node("Relu", ["images"], ["features"]),
            ],
            "onnx_graph_too_large",
            "those before it",
        ),
        (
            [helper.make_node("Pad", ["images", "pads"], ["features"])] * 1,
            "onnx_graph_too_large",
            "Pad",
        ),
        ([helper.make_node("Reshape", ["images", "three"], ["features"])], "onnx_unfit_graph", "Reshape"),
        ([helper.make_node("Conv", ["images", "kernel"], ["features"], group=3)], "onnx_unfit_graph", "groups"),
        (
            [helper.make_node("Conv", ["images", "kernel"], ["features"], pads=[9**9] * 4)],
            "onnx_unfit_graph",
            "padding",
        ),
        ([helper.make_node("ReduceMean", ["images"], ["features"], axes=[0])], "onnx_unfit_graph", "mixes the images"),
        ([helper.make_node("Slice", ["images", "one", "three", "zero"], ["features"])], "onnx_unfit_graph", "batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_by_name(nodes: list[onnx.NodeProto], code: str, says: str) -> None:
    tensors = {
        "large": torch.tensor([2**11, 2**11]),
        "huge": torch.tensor([2**40, 4, 192]),
        "sizes": torch.tensor([1, 1, 1, 1]),
        "pads": torch.tensor([0, 0, 1024, 1024, 0, 1024, 1024, 1024]),
        "zero": torch.tensor([0]),
        "one": torch.tensor([1]),
        "three": torch.tensor([3]),
        "kernel": torch.rand(4, 3, 3, 3),
    }
    content = onnx_files.classifier(*nodes, **tensors).SerializeToString()
    with pytest.raises(AlgorithmError, match=says) as refused:
        read(content, 8)
    assert refused.value.code == code
    assert refused.value.hint
