"""Claim: an epoch of SAGE takes a fraction of the time that the plain way takes, in about the same memory.

    python benchmarks/sage_epoch.py
    python benchmarks/sage_epoch.py --device cuda

The paper's ResNet-18 at full width on real CIFAR-10 images, the same objective, batch size and number of steps on both
sides: Redeem's `sage` as the service calls it, and `plain.py`. An epoch of one, an epoch of the other, in turns; the
first of each warms up and does not count. First it is checked that both do the same: the losses of three steps from
the same weights on the same images. Peak memory is of one process each. About five minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import (
    clock,
    counted_flops,
    matrix_rate,
    parser,
    print_table,
    read_example,
    spread,
    write_record,
)
from benchmarks.memory import memory_of
from benchmarks.plain import PlainSage
from worker.algorithms.architectures.small_resnet import resnet18
from worker.algorithms.augment import crop_and_flip
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, as_float
from worker.algorithms.precision import has_fast_bfloat16
from worker.algorithms.purifiers.sage import sage
from worker.algorithms.training import fit

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TOLERANCE = {"float32": 0.01, "bfloat16": 0.05}  # of a loss, relative, after three steps
NEAR = 0.1  # of the mean loss of an epoch with augmentation, where the two sides draw different crops
STEPS = 3
BATCH = 64
BOTH: dict[str, float] = {"lr": 0.01, "beta": 300.0, "averaging": 0.995}
OURS: dict[str, Any] = {
    **BOTH,
    "own_logits": 1.0,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "fixed",
    "lr_scale": "none",
}


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    device = arguments.device
    train, held_out, model = prepared(arguments)
    if arguments.memory_of:
        print(peak_memory(arguments, train, held_out, model))
        return 0

    same = same_losses(arguments, train, held_out, model)
    ours, plain, losses = in_turns(arguments, train, held_out, model)
    memory = {side: int(in_a_process(arguments, side)) for side in ("ours", "plain")}
    flops, rate = flops_of_an_image(arguments, train, model), matrix_rate(device)
    near = abs(losses["ours"] / losses["plain"] - 1) <= NEAR
    speed = {side: spread([len(train) / s for s in taken]) for side, taken in (("ours", ours), ("plain", plain))}
    ratio = spread([p / o for o, p in zip(ours, plain, strict=True)])
    share = {side: round(speed[side]["median"] * flops / rate, 3) for side in speed}
    write_record(
        arguments,
        __file__,
        images=len(train),
        width=arguments.width,
        loader_workers=arguments.loader_workers,
        rows=[
            {"way": side, "images_per_second": speed[side], "share_of_matrix_rate": share[side]}
            | {"peak_memory_bytes": memory[side], "mean_loss": round(losses[side], 4)}
            for side in speed
        ],
        ratio=ratio,
        memory_ratio=round(memory["ours"] / memory["plain"], 2),
        flops_per_image=flops,
        matrix_flops_per_second=round(rate),
        seconds_at_matrix_rate=round(len(train) * flops / rate, 2),
        same_losses=same,
    )
    mebibytes = {side: f"{peak / 2**20:.0f} MiB" for side, peak in memory.items()}
    print_table(
        ("way", "images/s", "of the matrix rate", "peak memory", "mean loss"),
        *(
            (side, speed[side]["median"], f"{share[side]:.0%}", mebibytes[side], f"{losses[side]:.3f}")
            for side in speed
        ),
        ("ratio", ratio["median"], "", round(memory["ours"] / memory["plain"], 2), ""),
    )
    if not (same["agree"] and near):
        print("The two ways do not train alike: the ratio says nothing.", file=sys.stderr)
        return 1
    return 0


def parse(words: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, __file__)
    options.add_argument("--images", type=int, default=500, help="at most 900; no one more than a multiple of 64")
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5, help="epochs of each side that count")
    options.add_argument("--loader-workers", type=int, help="of the plain side; by default none on a CPU")
    options.add_argument("--memory-of", choices=("ours", "plain"), help=argparse.SUPPRESS)
    arguments = options.parse_args(words)
    if arguments.loader_workers is None:
        arguments.loader_workers = min(8, os.cpu_count() or 1) if arguments.device.type == "cuda" else 0
    return arguments


def prepared(arguments: argparse.Namespace) -> tuple[Images, Images, Classifier]:
    """Images to train on, a tenth as many held out, and a network after one epoch on them: its weights do not change
    the speed, but its losses have to be of a usual size. They need not for the peak memory, which is to find no
    memory that an earlier epoch has left."""
    everything = read_example("clean.zip").to(arguments.device)
    torch.manual_seed(arguments.seed)
    order = torch.randperm(len(everything)).to(arguments.device)
    train, held_out = everything[order[: arguments.images]], everything[order[-(arguments.images // 10 + 1) :]]
    model = Classifier(resnet18(10, 3, arguments.width), MEAN, STD).to(arguments.device)
    if not arguments.memory_of:
        list(fit(model, train, augment=crop_and_flip, epochs=1, batch_size=BATCH, lr=0.02, seed=arguments.seed))
    return train, held_out, model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def plain_way(arguments: argparse.Namespace, model: Classifier, **settings: Any) -> PlainSage:
    return PlainSage(model.network, MEAN, STD, **{"batch_size": BATCH, **BOTH, **settings})


def batch(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """For a DataLoader, whose images are on the host."""
    return images.pixels.cpu(), images.labels.cpu()


def same_losses(arguments: argparse.Namespace, train: Images, held_out: Images, model: Classifier) -> dict[str, object]:
    """Three epochs of one step each, without augmentation: the order within a batch does not matter, all else does."""
    one_batch = train[torch.arange(min(64, len(train)), device=train.labels.device)]
    purified = sage(
        model,
        one_batch,
        held_out,
        epochs=STEPS,
        batch_size=len(one_batch),
        augmentation="none",
        seed=arguments.seed,
        **OURS,
    )
    ours = [entry["training_loss"] for entry in purified.history]
    epochs = plain_way(arguments, model, batch_size=len(one_batch), augmented=False).epochs(
        batch(one_batch), batch(held_out)
    )
    plain = list(itertools.islice(epochs, STEPS))
    apart = max(abs(o / p - 1) for o, p in zip(ours, plain, strict=True))
    tolerance = TOLERANCE["bfloat16" if has_fast_bfloat16(arguments.device) else "float32"]
    return {
        "ours": [round(loss, 4) for loss in ours],
        "plain": [round(loss, 4) for loss in plain],
        "apart": round(apart, 5),
        "agree": apart <= tolerance,
    }


def in_turns(
    arguments: argparse.Namespace, train: Images, held_out: Images, model: Classifier
) -> tuple[list[float], list[float], dict[str, float]]:
    """Seconds of the epochs of each side, and their mean losses. SAGE tells when an epoch of its own is over, and the
    plain side then has its turn: whatever else the machine does meets both."""
    epochs = plain_way(arguments, model, workers=arguments.loader_workers).epochs(batch(train), batch(held_out))
    ours: list[float] = []
    plain: list[float] = []
    plain_losses: list[float] = []
    since = clock(arguments.device)

    def an_epoch_of_the_plain_way(_: float) -> None:
        nonlocal since
        over = clock(arguments.device)
        ours.append(over - since)
        plain_losses.append(next(epochs))
        since = clock(arguments.device)
        plain.append(since - over)

    purified = sage(
        model,
        train,
        held_out,
        epochs=1 + arguments.rounds,
        batch_size=BATCH,
        seed=arguments.seed,
        progress=an_epoch_of_the_plain_way,
        **OURS,
    )
    assert len(ours) == 1 + arguments.rounds, "SAGE diverged and began anew: its epochs cannot be compared"
    losses = [entry["training_loss"] for entry in purified.history]
    mean = {"ours": sum(losses) / len(losses), "plain": sum(plain_losses) / len(plain_losses)}
    return ours[1:], plain[1:], mean


def flops_of_an_image(arguments: argparse.Namespace, train: Images, model: Classifier) -> int:
    """Counted on one step: forward and backward of the student, forward of the suspect."""
    way, some = plain_way(arguments, model), train[torch.arange(min(16, len(train)), device=train.labels.device)]
    student = copy.deepcopy(model.network).train()
    x = as_float(some.pixels)
    return counted_flops(lambda: way.objective(student, model.network, x, some.labels).backward()) // len(some)  # type: ignore[no-untyped-call]


def in_a_process(arguments: argparse.Namespace, side: str) -> str:
    """The peak memory of one side, measured where the other has never run."""
    words = [f"--{name}={getattr(arguments, name)}" for name in ("device", "seed", "images", "width")]
    words += [f"--loader-workers={arguments.loader_workers}", f"--memory-of={side}"]
    program = [sys.executable, "-m", "benchmarks.sage_epoch", *words]
    finished = subprocess.run(  # noqa: S603
        program, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.PIPE, text=True
    )
    return finished.stdout


def peak_memory(arguments: argparse.Namespace, train: Images, held_out: Images, model: Classifier) -> int:
    """Bytes that two epochs of one side take at most, beyond what was there before them: images and suspect."""
    device = arguments.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        # Not getrusage: its maximum outlives an exec, and would be that of the process which started this one.
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
        before = memory_of("self", "VmRSS")
    if arguments.memory_of == "ours":
        sage(model, train, held_out, epochs=2, batch_size=BATCH, seed=arguments.seed, **OURS)
    else:
        epochs = plain_way(arguments, model, workers=arguments.loader_workers).epochs(batch(train), batch(held_out))
        next(epochs), next(epochs)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory_of("self", "VmHWM")
    return peak - before


if __name__ == "__main__":
    sys.exit(main())
