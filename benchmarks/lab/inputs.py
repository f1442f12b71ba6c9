"""Purified inputs in place of a purified network: Februus before a suspect, and before its benign twin."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.lab.cells import dataset, figures, known, provenance, record_name
from benchmarks.lab.suspects import BENIGN, Recipe, Stamped, mpa, suspect
from worker.algorithms.data import Images
from worker.algorithms.februus import februus

METHOD = "februus"


def name_of_inputs(recipe: Recipe, options: dict[str, Any]) -> str:
    """Of the record of a suspect, by the `options` of Februus."""
    return record_name(recipe, (METHOD, recipe.seed), [recipe.hash, METHOD, options])


def measure_inputs(
    recipe: Recipe, options: dict[str, Any], folder: Path, cache: Path, device: torch.device, command: str
) -> dict[str, Any]:
    """The record of a suspect that sees its test images, clean and triggered, after Februus with `options`; what it
    does without is in `suspect`. The control is its `benign` twin with the same images: what Februus costs where there
    is nothing to remove."""
    data = dataset(recipe.dataset, folder)
    subject = suspect(recipe, data, cache, device)
    twin = suspect(dataclasses.replace(recipe, attack=BENIGN, options={}), data, cache, device)
    test = data.test[torch.arange(recipe.profile.test_images)].to(device)
    started = time.perf_counter()
    measured = _measured(subject.model, test, subject.stamped, options)
    seconds = time.perf_counter() - started
    return {
        "recipe": dataclasses.asdict(recipe),
        "inputs": METHOD,
        "options": options,
        "suspect": known(subject),
        **measured,
        "benign": _measured(twin.model, test, subject.stamped, options),
        "seconds": round(seconds, 1),
        **provenance(command, device),
    }


def _measured(model: nn.Module, test: Images, stamped: list[Stamped], options: dict[str, Any]) -> dict[str, Any]:
    def purified(images: Images) -> Images:
        return Images(februus(model, images.pixels, **options), images.labels)

    without_regions = [dataclasses.replace(one, images=purified(one.images)) for one in stamped]
    return figures(model, purified(test), without_regions, before=mpa(model, test))
