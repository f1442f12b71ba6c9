"""The networks that a server can load, and what each takes besides `num_classes` and `in_channels`."""

from __future__ import annotations

WIDTH = "channels of the first stage (default {}); told by the weights' shapes, and checked where it is given"

ONNX = "onnx"
"""An upload that is a graph, whatever its architecture."""

PURIFIED_GRAPH = "purified.onnx"
"""What a job makes of it, besides the weights alone."""

ARCHITECTURES: dict[str, dict[str, str]] = {
    ONNX: {},
    "paper/lenet5": {},
    "paper/resnet18": {"width": WIDTH.format(64)},
    "paper/resnet50": {"width": WIDTH.format(64)},
    "paper/squeezenet": {},
    "paper/densenet121": {},
    "paper/shufflenet_v2": {},
    "torchvision/<name>": {
        "<name>": "a classification network of torchvision's registry, such as torchvision/vgg16",
        "image_size": "of a vision transformer: pixels, 16 to 1024",
        "aux_logits": "of Inception and GoogLeNet: whether the weights have the auxiliary heads",
        "transform_input": "of Inception and GoogLeNet: whether it renormalises its input",
    },
    "timm/<name>": {
        "<name>": "a network of timm's registry, such as timm/vit_tiny_patch16_224",
        "img_size": "of a vision transformer: pixels, 16 to 1024",
        "global_pool": "avg, avgmax, catavgmax, map, max or token",
    },
}
