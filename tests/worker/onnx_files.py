"""Networks as ONNX files, exported or written by hand, and what onnxruntime makes of them."""

from __future__ import annotations

import io
import warnings
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

KEEP_BATCH_NORMS = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}


def lived_in(network: nn.Module, seed: int = 0) -> nn.Module:
    """As if it had been trained: no two tensors are alike, and no statistics are those of a fresh network."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.rand(tensor.shape, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_((noise(module.weight) - 0.5) * (12 / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(0.1 * noise(module.bias))
            elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.copy_(0.5 + noise(module.weight))
                module.bias.copy_(noise(module.bias) - 0.5)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(0.1 * noise(module.running_mean))
                module.running_var.copy_(0.5 + noise(module.running_var))
    return network.eval()


def exported(network: nn.Module, size: int, *, batch: int | None = None, channels: int = 3, **options: Any) -> bytes:
    """By torch's own exporter, the one that needs no other package. `batch`: fixed to that many images."""
    file = io.BytesIO()
    free = None if batch else {"images": {0: "batch"}, "logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(batch or 2, channels, size, size),),
            file,
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes=free,
            **options,
        )
    return file.getvalue()


def run(content: bytes, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(logits)


def written(
    nodes: list[onnx.NodeProto],
    tensors: dict[str, Tensor] | None = None,
    *,
    shape: tuple[int | str, ...] = ("batch", 3, 8, 8),
    opset: int = 17,
    **fields: Any,
) -> onnx.ModelProto:
    """A model from `images` to `logits`, by hand."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", "classes"))],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in (tensors or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **fields)


def classifier(*nodes: onnx.NodeProto, **tensors: Tensor) -> onnx.ModelProto:
    """`nodes` from `images` to `features` (N, 3, 8, 8), and a linear layer of 4 classes after them."""
    torch.manual_seed(0)
    rest = [
        helper.make_node("Flatten", ["features"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    return written([*nodes, *rest], {"weight": torch.randn(4, 3 * 8 * 8), **tensors})
