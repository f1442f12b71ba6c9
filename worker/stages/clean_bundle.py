"""What the clean bundle is like, and what a reader of the report should know of it."""

from __future__ import annotations

import hashlib

import torch

from redeem.report import CleanSummary, Flag
from worker.algorithms.data import Images
from worker.algorithms.metrics import logits
from worker.stages.load import CleanParts, Inputs

FEW_OF_A_CLASS = 5
SURE, DOUBTED = 0.9, 0.01  # the suspect's probability of another label, and of the one that was given
MANY_DOUBTED = 0.05  # of the images; a network of 90 % accuracy is surely wrong on a few percent
NAMED = 10


def summary(inputs: Inputs, sha256: str) -> CleanSummary:
    """How the bundle was used, how many images it has of each class, how many a second time, and of how many the
    suspect is sure that they are something else."""
    clean = inputs.clean
    parts = (clean.train, clean.held_out, clean.report)
    labels = torch.cat([part.labels for part in parts])
    return CleanSummary(
        sha256=sha256,
        images=len(labels),
        train=len(clean.train),
        held_out=len(clean.held_out),
        report=len(clean.report),
        per_class=torch.bincount(labels, minlength=inputs.loaded.num_classes).tolist(),
        duplicates=_duplicates(clean),
        doubted=sum(_doubted(inputs, part) for part in parts),
    )


def clean_flags(clean: CleanSummary) -> list[Flag]:
    found = []
    few = [label for label, count in enumerate(clean.per_class) if count < FEW_OF_A_CLASS]
    if few:
        named = ", ".join(map(str, few[:NAMED])) + (", …" if len(few) > NAMED else "")
        found.append(
            Flag(
                code="few_images_of_a_class",
                message=f"{len(few)} classes have fewer than {FEW_OF_A_CLASS} clean images: {named}.",
                advice="Send some of every class: what is hardly there is hardly kept, and hardly measured.",
            )
        )
    if clean.duplicates:
        found.append(
            Flag(
                code="duplicate_images",
                message=f"{clean.duplicates} of {clean.images} clean images are there a second time.",
                advice="Leave copies out: an image that was trained on may be measured again in the MPA.",
            )
        )
    if clean.doubted > MANY_DOUBTED * clean.images:
        found.append(
            Flag(
                code="labels_doubted",
                message=f"The suspect is sure that {clean.doubted} of {clean.images} clean images have a wrong label.",
                advice="Check the order of the classes and the preprocessing; if both are right, the labels.",
            )
        )
    return found


def _duplicates(clean: CleanParts) -> int:
    """Images that are, pixel by pixel, another one of the bundle again."""
    images = [image for part in (clean.train, clean.held_out, clean.report) for image in part.pixels.cpu().numpy()]
    return len(images) - len({hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images})


def _doubted(inputs: Inputs, images: Images) -> int:
    if not len(images):
        return 0
    probabilities = logits(inputs.suspect, images.pixels).softmax(1)
    given = probabilities.gather(1, images.labels.to(probabilities.device)[:, None]).squeeze(1)
    return int(((given < DOUBTED) & (probabilities.max(1).values > SURE)).sum())
