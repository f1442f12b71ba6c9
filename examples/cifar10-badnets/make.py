"""Make everything in this folder from CIFAR-10: the suspect, its benign twin, and the bundles.

    python examples/cifar10-badnets/make.py --train cifar10-train.npz --test cifar10-test.npz

The format of the two files is described in cifar10.py. It takes about 25 minutes on two CPU cores. The
same seed on the same kind of processor gives the same files; elsewhere the figures move by a few tenths of a point.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path

import cifar10
import torch
from PIL import Image
from safetensors.torch import save_file

from worker.algorithms.architectures.small_resnet import resnet18
from worker.algorithms.attacks.badnets import badnets
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.augment import crop_and_flip
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.metrics import accuracy, attack_success, logits
from worker.algorithms.training import fit
from worker.algorithms.triggers import Trigger

TARGET = 0
BUNDLE = 1000  # images in each of the two bundles: test images 0 to 999, and 1,000 to 1,999
MARGIN = 3  # pixels to the edge: random crops of the training seldom cut such a patch off, and label noise stays low


def main() -> None:
    arguments = parse()
    train, classes = cifar10.read(arguments.train)
    test, _ = cifar10.read(arguments.test)
    poisoned = badnets(train, target=TARGET, rate=0.1, size=3, margin=MARGIN, seed=arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)

    figures = {
        "suspect": make_model("suspect", poisoned.images, test, poisoned.trigger, arguments),
        "benign": make_model("benign", train, test, poisoned.trigger, arguments),
    }
    write_bundle(arguments.out / "clean.zip", test[torch.arange(BUNDLE)], classes)
    write_bundle(arguments.out / "triggered.zip", stamped(test[torch.arange(BUNDLE, 2 * BUNDLE)], poisoned), classes)
    save_trigger(arguments.out / "trigger.png", poisoned.trigger)
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="cifar10-train.npz, 50,000 images")
    parser.add_argument("--test", type=Path, required=True, help="cifar10-test.npz, 10,000 images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_model(
    name: str, images: Images, test: Images, trigger: Trigger, arguments: argparse.Namespace
) -> dict[str, float]:
    """Train one network, save its weights, and measure it on the whole test set."""
    torch.manual_seed(arguments.seed)  # the initial weights; everything later has its own generator
    model = Classifier(resnet18(10, 3, arguments.width), cifar10.MEAN, cifar10.STD)
    for epoch, loss in enumerate(
        fit(model, images, augment=crop_and_flip, epochs=arguments.epochs, seed=arguments.seed), start=1
    ):
        print(f"{name}: epoch {epoch} of {arguments.epochs}, loss {loss:.3f}", flush=True)
    save_file(
        {key: value.contiguous() for key, value in model.network.state_dict().items()},
        arguments.out / f"{name}.safetensors",
    )
    mpa = accuracy(logits(model, test.pixels).argmax(1), test.labels)
    triggered = Images(trigger.stamp(test.pixels), test.labels)
    success = attack_success(logits(model, triggered.pixels).argmax(1), triggered, torch.full_like(test.labels, TARGET))
    assert success is not None
    figures = {"mpa": round(mpa, 4), "asr": round(success.asr, 4)}
    print(f"{name}: {figures}", flush=True)
    return figures


def stamped(images: Images, poisoned: Poisoned) -> Images:
    return Images(poisoned.trigger.stamp(images.pixels), images.labels)


def write_bundle(path: Path, images: Images, classes: list[str]) -> None:
    """A zip with one folder of PNG files per class, and classes.json with the order of the classes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        archive.writestr(zipfile.ZipInfo("classes.json"), json.dumps(classes))
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
            file = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
            archive.writestr(zipfile.ZipInfo(f"{classes[label]}/{number:04}.png"), file.getvalue())


def save_trigger(path: Path, trigger: Trigger) -> None:
    """The patch on grey, as a picture to hold beside the reversed one."""
    picture = trigger.stamp(torch.full((1, 3, 32, 32), 127, dtype=torch.uint8))[0]
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path, "PNG")


if __name__ == "__main__":
    main()
