"""Somebody else's weights."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.algorithms.architectures import PAPER, Loaded, build, dump, infer, load
from worker.algorithms.errors import Diverged, UnknownArchitecture, WeightsMismatch

State = dict[str, Tensor]


def saved(name: str = "paper/resnet18", *, num_classes: int = 10, in_channels: int = 3, **options: Any) -> State:
    if name == "paper/resnet18":
        options = {"width": 8, **options}
    network = build(name, num_classes=num_classes, in_channels=in_channels, options=options)
    state: State = network.state_dict()
    return state


def as_dtype(state: State, dtype: torch.dtype, prefix: str = "") -> State:
    return {prefix + key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def loaded_network(state: State) -> tuple[Loaded, Any]:
    loaded = load("paper/resnet18", None, None, {}, state)
    return loaded, loaded.network


def shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("name", [f"paper/{name}" for name in PAPER])
def test_the_shapes_tell_everything_of_a_paper_network(name: str) -> None:
    options = {"width": 12} if "resnet" in name else {}
    state = saved(name, num_classes=43, in_channels=1, **options)
    assert infer(name, shapes(state)) == {"num_classes": 43, "in_channels": 1, **options}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("torchvision/mobilenet_v3_small", {}),
        ("torchvision/regnet_y_400mf", {}),
        ("torchvision/squeezenet1_1", {}),
        ("torchvision/swin_t", {}),
        ("torchvision/googlenet", {"aux_logits": True}),
        ("timm/resnet18", {}),
        ("timm/vit_tiny_patch16_224", {}),
        ("timm/convnext_atto", {}),
        ("timm/deit_tiny_distilled_patch16_224", {}),
    ],
)
def test_no_head_needs_to_be_known_by_name(name: str, more: dict[str, Any]) -> None:
    state = saved(name, num_classes=43, in_channels=1)
    loaded = load(name, None, None, {}, state)
    assert (loaded.num_classes, loaded.in_channels, loaded.options) == (43, 1, more)
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.network.state_dict().items())


def test_googlenet_without_auxiliary_heads_is_told_from_its_keys() -> None:
    loaded = load("torchvision/googlenet", None, None, {}, saved("torchvision/googlenet", aux_logits=False))
    assert loaded.options == {"aux_logits": False}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_file_comes_back_as_it_came(prefix: str, dtype: torch.dtype) -> None:
    state = dict(sorted(as_dtype(saved(), dtype, prefix).items(), reverse=True))
    loaded = load("paper/resnet18", 10, 3, {"width": 8}, state)
    assert loaded.prefix == prefix
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}
    purified: Any = copy.deepcopy(loaded.network)
    out = dump(loaded, purified.to(memory_format=torch.channels_last))
    assert list(out) == list(state)
    for key, tensor in out.items():
        assert tensor.dtype == state[key].dtype
        assert torch.equal(tensor, state[key])
        assert tensor.is_contiguous()


def test_a_dump_shares_no_memory_with_the_network() -> None:
    loaded, network = loaded_network(saved())
    out = dump(loaded, network)
    with torch.no_grad():
        network.conv1.weight.add_(1)
    assert not torch.equal(out["conv1.weight"], network.conv1.weight)


def test_what_was_given_is_not_changed() -> None:
    state = saved()
    before = {key: tensor.clone() for key, tensor in state.items()}
    _, network = loaded_network(state)
    with torch.no_grad():
        network.conv1.weight.add_(1)
    assert all(torch.equal(state[key], tensor) for key, tensor in before.items())


def test_loading_leaves_the_global_generator_alone() -> None:
    state = saved()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load("paper/resnet18", None, None, {}, state)
    assert torch.equal(torch.rand(3), expected)


def test_files_without_batch_counters_are_taken_and_come_back_without() -> None:
    state = {key: tensor for key, tensor in saved().items() if not key.endswith("num_batches_tracked")}
    loaded = load("paper/resnet18", None, None, {}, state)
    assert list(dump(loaded, loaded.network)) == list(state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_classes": 100}, "the weights have 10 classes, 100 were given"),
        ({"in_channels": 1}, "the weights have 3 input channels, 1 were given"),
        ({"options": {"width": 64}}, "the weights have 8 channels in the first stage, 64 were given"),
    ],
)
def test_what_is_given_is_checked(given: dict[str, Any], message: str) -> None:
    arguments = {"num_classes": None, "in_channels": None, "options": {}, **given}
    with pytest.raises(WeightsMismatch, match=message):
        load("paper/resnet18", state=saved(), **arguments)


def test_missing_unexpected_and_misshapen_weights_are_named() -> None:
    state = saved()
    del state["bn1.weight"]
    state["surprise"] = torch.zeros(1)
    state["layer1.0.conv1.weight"] = torch.zeros(8, 8, 5, 5)
    with pytest.raises(WeightsMismatch) as caught:
        load("paper/resnet18", None, None, {}, state)
    assert "1 missing: bn1.weight" in str(caught.value)
    assert "1 unexpected: surprise" in str(caught.value)
    assert "layer1.0.conv1.weight is (8, 8, 5, 5) instead of (8, 8, 3, 3)" in str(caught.value)


def test_a_long_list_of_complaints_is_cut() -> None:
    with pytest.raises(WeightsMismatch) as caught:
        load("paper/resnet18", None, None, {}, saved("paper/densenet121") | {"x" * 10_000: torch.zeros(1)})
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("state", [{}, {"module.": torch.zeros(1)}, {"": torch.zeros(1)}])
def test_an_odd_state_dict_is_a_mismatch(state: State) -> None:
    with pytest.raises(WeightsMismatch, match="missing"):
        load("paper/resnet18", None, None, {}, state)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_numbers_must_be_finite(value: float) -> None:
    state = as_dtype(saved(), torch.float64)
    state["layer3.0.conv1.weight"].view(-1)[7] = value
    with pytest.raises(WeightsMismatch, match=re.escape("layer3.0.conv1.weight")):
        load("paper/resnet18", None, None, {}, state)


def test_integers_are_no_weights() -> None:
    with pytest.raises(WeightsMismatch, match=r"conv1\.weight is int8"):
        load("paper/resnet18", None, None, {}, saved() | {"conv1.weight": torch.zeros(8, 3, 3, 3, dtype=torch.int8)})


def test_index_tables_must_be_the_networks_own() -> None:
    state = saved("torchvision/swin_t")
    key = next(key for key in state if key.endswith("relative_position_index"))
    state[key] = state[key] + 10**6  # it would read out of bounds
    with pytest.raises(WeightsMismatch, match="is not the table"):
        load("torchvision/swin_t", None, None, {}, state)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("fc.weight", (10**15, 0)),
        ("fc.weight", (10**12, 64)),
        ("conv1.weight", (2**40, 3, 3, 3)),
        ("fc.weight", (1, 64)),
    ],
)
def test_a_hostile_shape_is_a_mismatch_and_not_an_attempt_to_allocate(key: str, shape: tuple[int, ...]) -> None:
    state = saved() | {key: torch.zeros(()).expand(shape)}
    with pytest.raises(WeightsMismatch):
        load("paper/resnet18", None, None, {}, state)


def test_a_hostile_class_count_is_refused() -> None:
    with pytest.raises(UnknownArchitecture, match="num_classes must be"):
        load("paper/resnet18", 10**12, None, {}, saved())


def test_a_diverged_network_is_not_dumped() -> None:
    loaded, network = loaded_network(as_dtype(saved(), torch.float16))
    with torch.no_grad():
        network.fc.bias[0] = 1e6  # finite, but not in half precision
    with pytest.raises(Diverged, match=r"fc\.bias .* float16"):
        dump(loaded, loaded.network)
