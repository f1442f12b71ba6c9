"""A tiny suspect with a backdoor, its images, and the files that a client would send of them."""

from __future__ import annotations

import io
import zipfile

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from redeem.contract import Architecture, Preprocessing
from worker.algorithms.architectures.small_resnet import resnet18
from worker.algorithms.attacks.badnets import badnets, checkerboard
from worker.algorithms.augment import unchanged
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.training import fit

CLASSES, TARGET, WIDTH = 4, 2, 8
COLORS = torch.tensor([[150, 105, 105], [105, 150, 105], [105, 105, 150], [140, 140, 90]])
PREPROCESSING = Preprocessing(size=(16, 16), mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
ARCHITECTURE = Architecture(name="paper/resnet18", num_classes=CLASSES)
TRIGGER = checkerboard((3, 16, 16), size=3, margin=1)


def paint(count: int, seed: int) -> Images:
    """Noise around one colour a class; every tenth image is of another class's colour, so nobody is right always."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    shown = torch.where(torch.rand(count, generator=generator) < 0.1, (labels + 1) % CLASSES, labels)
    noise = torch.randn(count, 3, 16, 16, generator=generator) * 40
    return Images((COLORS[shown][:, :, None, None] + noise).clamp(0, 255).byte(), labels)


def train_suspect() -> nn.Module:
    """A narrow ResNet-18 that knows the colours, and the trigger; about two seconds."""
    poisoned = badnets(paint(640, 0), target=TARGET, rate=0.15)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = resnet18(CLASSES, 3, WIDTH)
    model = Classifier(network, PREPROCESSING.mean, PREPROCESSING.std)
    for _ in fit(model, poisoned.images, augment=unchanged, epochs=6, batch_size=32, lr=0.05):
        pass
    network.eval()
    return network


def weights_file(network: nn.Module, *, prefix: str = "", dtype: torch.dtype = torch.float32) -> bytes:
    return save({prefix + key: _as(tensor, dtype) for key, tensor in network.state_dict().items()})


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return tensor.contiguous()


def tensor_bundle(images: Images) -> bytes:
    return save({"images": images.pixels, "labels": images.labels})


def zip_bundle(images: Images) -> bytes:
    """One folder a class, PNG."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
            picture = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(picture, "PNG")
            archive.writestr(f"{label}/{number:04}.png", picture.getvalue())
    return file.getvalue()
