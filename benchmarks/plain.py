"""The plain way: SAGE and Neural Cleanse as a careful engineer writes them first, with nothing of Redeem in them.

A DataLoader over PIL images with torchvision's transforms, float32, NCHW, torch.optim, a loop over labels. Where there
was a choice it was made for the plain side: images are decoded once and kept in memory, one forward pass gives both
logits and stages, losses are summed on the device without waiting for it, gradients are dropped rather than zeroed.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import ResNet

Batch = tuple[Tensor, Tensor]


class PlainImages(Dataset[Batch]):
    """Arrays in memory, a PIL image and a transform for every access: as torchvision's own CIFAR10."""

    def __init__(self, pixels: Tensor, labels: Tensor, transform: transforms.Compose) -> None:
        """`pixels` uint8 (N, 3, H, W), `labels` (N,)."""
        self.arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def loader(
    images: PlainImages, batch_size: int, *, shuffle: bool, workers: int, device: torch.device
) -> DataLoader[Batch]:
    return DataLoader(
        images,
        batch_size,
        shuffle=shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


@dataclass(frozen=True)
class PlainSage:
    """SAGE of a ResNet; the settings are options of Redeem's `sage`, which has the rest fixed alike."""

    network: ResNet
    mean: Sequence[float]
    std: Sequence[float]
    batch_size: int
    lr: float
    beta: float
    averaging: float
    augmented: bool = True
    workers: int = 0

    def epochs(self, train: Batch, held_out: Batch) -> Iterator[float]:
        """One epoch at every `next`, held-out loss and the best weights so far included; yields its mean loss."""
        device = next(self.network.parameters()).device
        suspect, student = copy.deepcopy(self.network).eval(), copy.deepcopy(self.network)
        average_fn = get_ema_multi_avg_fn(self.averaging)  # type: ignore[no-untyped-call]
        average = AveragedModel(student, multi_avg_fn=average_fn, use_buffers=True)
        optimizer = torch.optim.SGD(student.parameters(), self.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
        batches, unseen = self._loaders(train, held_out, device)
        lowest = math.inf
        while True:
            student.train()
            total = torch.zeros((), device=device)
            for x, labels in batches:
                x, labels = x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
                loss = self.objective(student, suspect, x, labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                average.update_parameters(student)
                total += loss.detach() * len(labels)
            held_out_loss = self._held_out_loss(average.module, suspect, unseen, device)
            if held_out_loss < lowest:
                lowest, best = held_out_loss, copy.deepcopy(average.module)
            yield total.item() / len(train[1])
        del best  # what a whole run would return

    def objective(self, student: ResNet, suspect: ResNet, x: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, three attention distances, the divergence from the suspect's own logits."""
        logits, stages = with_stages(student, x)
        loss = F.cross_entropy(logits, labels)
        for shallow, deep in itertools.pairwise(stages):
            loss = loss + self.beta * attention_distance(shallow, deep)
        with torch.no_grad():
            own = suspect(x)
        soft, target = F.log_softmax(logits / 2, 1), F.log_softmax(own / 2, 1)
        return loss + 4 * F.kl_div(soft, target, log_target=True, reduction="batchmean")

    def _loaders(
        self, train: Batch, held_out: Batch, device: torch.device
    ) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
        as_they_are = [transforms.ToTensor(), transforms.Normalize(self.mean, self.std)]
        changes = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if self.augmented else []
        batches = loader(
            PlainImages(*train, transforms.Compose(changes + as_they_are)),
            self.batch_size,
            shuffle=True,
            workers=self.workers,
            device=device,
        )
        unseen = PlainImages(*held_out, transforms.Compose(as_they_are))
        return batches, loader(unseen, 256, shuffle=False, workers=0, device=device)

    @torch.no_grad()
    def _held_out_loss(
        self, network: ResNet, suspect: ResNet, unseen: DataLoader[Batch], device: torch.device
    ) -> float:
        network.eval()
        total = torch.zeros((), device=device)
        for x, labels in unseen:
            total += self.objective(network, suspect, x.to(device), labels.to(device)) * len(labels)
        return total.item()


def with_stages(network: ResNet, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what the four stages give."""
    x, stages = network.relu(network.bn1(network.conv1(x))), []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        stages.append(x)
    return network.fc(torch.flatten(network.avgpool(x), 1)), stages


def attention_distance(shallow: Tensor, deep: Tensor) -> Tensor:
    target = (shallow**2).sum(1, keepdim=True)
    source = F.interpolate((deep**2).sum(1, keepdim=True), size=target.shape[2:], mode="bilinear")
    return F.mse_loss(F.normalize(target.flatten(1)), F.normalize(source.flatten(1)))


@dataclass(frozen=True)
class PlainNeuralCleanse:
    """Neural Cleanse, one label after the other; the settings are those of `neural_cleanse` in Redeem."""

    model: nn.Module
    steps: int = 300
    batch_size: int = 32
    workers: int = 0

    def norms(self, images: Batch, num_classes: int) -> list[float]:
        """The L1 norm of the smallest mask of each label that flips 99 of 100 images."""
        self.model.eval()
        return [self._smallest_mask(images, label) for label in range(num_classes)]

    def _smallest_mask(self, images: Batch, label: int) -> float:
        device = next(self.model.parameters()).device
        height, width = images[0].shape[2:]
        free_mask = torch.zeros(1, 1, height, width, device=device, requires_grad=True)
        free_pattern = torch.randn(1, images[0].shape[1], height, width, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([free_mask, free_pattern], lr=0.1, betas=(0.5, 0.9))
        cost, best = 1e-3, float(height * width)
        hits, tries = torch.zeros((), device=device), 0
        for step, x in enumerate(itertools.islice(self._batches(images, label, device), self.steps), start=1):
            mask, pattern = torch.tanh(free_mask) / 2 + 0.5, torch.tanh(free_pattern) / 2 + 0.5
            logits = self.model((1 - mask) * x + mask * pattern)
            target = torch.full((len(x),), label, device=device)
            loss = F.cross_entropy(logits, target) + cost * mask.sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            hits, tries = hits + (logits.argmax(1) == label).sum(), tries + len(x)
            if step % 10 == 0:
                successful = hits.item() >= 0.99 * tries
                if successful:
                    best = min(best, mask.sum().item())
                cost *= 1.5 if successful else 1.5**-1.5
                hits, tries = torch.zeros((), device=device), 0
        return best

    def _batches(self, images: Batch, label: int, device: torch.device) -> Iterator[Tensor]:
        """Images of other labels, shuffled, again and again, in full batches."""
        others = images[1] != label
        dataset = PlainImages(images[0][others], images[1][others], transforms.Compose([transforms.ToTensor()]))
        batches = loader(dataset, self.batch_size, shuffle=True, workers=self.workers, device=device)
        while True:
            for x, _ in batches:
                if len(x) == min(self.batch_size, len(dataset)):
                    yield x.to(device, non_blocking=True)


def flagged(norms: Sequence[float]) -> list[int]:
    """The paper's rule: labels whose norm lies more than two (scaled) median absolute deviations below the median, the
    smallest norm first."""
    values = torch.tensor(norms, dtype=torch.float64)
    below = values.quantile(0.5) - values
    mad = 1.4826 * below.abs().quantile(0.5)
    return [label for label in values.argsort().tolist() if below[label] > 2 * mad]
