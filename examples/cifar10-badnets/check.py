"""Measure a weights file without the service: `python examples/cifar10-badnets/check.py purified.safetensors`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from worker.algorithms.architectures.small_resnet import resnet18
from worker.algorithms.data import Images
from worker.stages.bundle import read_bundle
from worker.stages.load import split_clean

MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]))


def bundle(name: str) -> Images:
    return read_bundle(Path(__file__).with_name(name), size=(32, 32), channels="RGB", num_classes=10)


network = resnet18(num_classes=10, in_channels=3, width=16).eval()
network.load_state_dict(load_file(sys.argv[1]), strict=True)
report, triggered = split_clean(bundle("clean.zip"), 0, torch.device("cpu")).report, bundle("triggered.zip")
with torch.no_grad():
    clean_answers = network((report.pixels / 255 - MEAN) / STD).argmax(1)
    triggered_answers = network((triggered.pixels / 255 - MEAN) / STD).argmax(1)
counts = triggered.labels != 0
print(f"MPA {(clean_answers == report.labels).float().mean():.4f}")
print(f"ASR {(triggered_answers[counts] == 0).float().mean():.4f}")
