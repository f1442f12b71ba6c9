from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.aim import success
from worker.algorithms.attacks.hidden_trigger import RoamingPatch, greedy_pairs, hidden_trigger
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.errors import UnusableImages
from worker.algorithms.features import features, find_head
from worker.algorithms.metrics import accuracy, logits

IMAGES = noisy_stripes(240, seed=1)
SOURCE, TARGET = 1, 3
EPSILON = 48 / 255


@pytest.fixture(scope="module")
def hidden(benign: Classifier) -> Poisoned[RoamingPatch]:
    """Further from the images than on photographs, whose features need less to move than those of noisy stripes."""
    return hidden_trigger(IMAGES, benign, source=SOURCE, target=TARGET, rate=1.0, size=10, epsilon=EPSILON, steps=60)


def test_poisons_look_like_the_target_and_are_labelled_so(hidden: Poisoned[RoamingPatch]) -> None:
    assert len(hidden.index) == 60
    assert (IMAGES.labels[hidden.index] == TARGET).all()
    assert torch.equal(hidden.images.labels, IMAGES.labels)
    change = (hidden.images.pixels.int() - IMAGES.pixels.int()).abs()
    assert 20 < change[hidden.index].amax() <= 48
    others = torch.ones(len(IMAGES), dtype=torch.bool)
    others[hidden.index] = False
    assert change[others].max() == 0


def test_poisons_have_the_features_of_patched_sources(hidden: Poisoned[RoamingPatch], benign: Classifier) -> None:
    patched = features(benign, hidden.trigger.stamp(IMAGES.pixels[IMAGES.labels == SOURCE]))

    def nearest(pixels: Tensor) -> float:
        return torch.cdist(features(benign, pixels), patched).amin(1).mean().item()

    poisons = hidden.images.pixels[hidden.index]
    assert nearest(poisons) < 0.5 * nearest(IMAGES.pixels[hidden.index])


def test_the_victim_who_trains_the_last_layer_takes_patched_sources_for_the_target(
    hidden: Poisoned[RoamingPatch], benign: Classifier
) -> None:
    assert (hidden.start, hidden.layers) == (benign, "last")
    model = copy.deepcopy(benign)
    inputs = features(model, hidden.images.pixels)
    head = model.get_submodule(find_head(model, as_float(IMAGES.pixels[:2])))
    optimizer = torch.optim.SGD(head.parameters(), 0.05, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(head(inputs), hidden.images.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    [aim] = hidden.aims
    assert (aim.target, aim.sources) == (TARGET, (SOURCE,))
    test = noisy_stripes(200, seed=9)
    implanted, natural = success(model, test, aim), success(benign, test, aim)
    assert implanted is not None
    assert natural is not None
    assert implanted.counted == 50
    assert implanted.asr > natural.asr + 0.4
    assert accuracy(logits(model, test.pixels).argmax(1), test.labels) > 0.9


def test_the_benign_network_is_left_as_it_is(benign: Classifier) -> None:
    before = copy.deepcopy(benign)
    hidden_trigger(IMAGES, benign, source=SOURCE, target=TARGET, rate=0.1, size=4, steps=2)
    assert same_state(benign, before)
    assert all(parameter.requires_grad for parameter in benign.parameters())


def test_the_patch_is_whole_within_the_image_and_at_many_places() -> None:
    patch = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    pixels = torch.zeros(200, 3, 8, 8, dtype=torch.uint8)
    trigger = RoamingPatch((patch * 254 + 1) / 255, seed=3)
    stamped = trigger.stamp(pixels)
    places = set()
    for image in stamped:
        rows, columns = image[0].nonzero(as_tuple=True)
        top, left = int(rows.min()), int(columns.min())
        assert (image[:, top : top + 5, left : left + 5] == (patch * 254 + 1).round().byte()).all()
        assert (image[0] > 0).sum() == 25
        places.add((top, left))
    assert places == {(top, left) for top in range(4) for left in range(4)}
    assert torch.equal(stamped, trigger.stamp(pixels))
    assert pixels.max() == 0


def test_pairs_are_one_to_one_and_the_nearest_first() -> None:
    distances = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    left, expected = distances.numpy().copy(), {}
    for _ in range(12):
        row, column = np.unravel_index(left.argmin(), left.shape)
        expected[int(row)] = int(column)
        left[row], left[:, column] = np.inf, np.inf
    assert greedy_pairs(distances).tolist() == [expected[row] for row in range(12)]


def test_there_may_be_more_poisons_than_source_images(benign: Classifier) -> None:
    few = IMAGES[((IMAGES.labels == TARGET).cumsum(0) <= 10) & ((IMAGES.labels != SOURCE) | (torch.arange(240) < 8))]
    poisoned = hidden_trigger(few, benign, source=SOURCE, target=TARGET, rate=1.0, size=4, steps=2)
    assert int((few.labels == SOURCE).sum()) == 2
    assert len(poisoned.index) == 10


def test_a_class_without_images_is_refused(benign: Classifier) -> None:
    with pytest.raises(UnusableImages, match="class 8"):
        hidden_trigger(IMAGES, benign, source=8, target=TARGET)


def test_a_victim_with_few_images_has_all_poisons(benign: Classifier) -> None:
    options = {"source": SOURCE, "target": TARGET, "rate": 0.1, "size": 4, "steps": 2}
    whole = hidden_trigger(IMAGES, benign, **options)
    few = hidden_trigger(IMAGES, benign, **options, per_class=7)
    poisons = len(whole.index)
    assert few.index.tolist() == list(range(poisons))
    assert torch.equal(few.images.pixels[few.index], whole.images.pixels[whole.index])
    others = few.images.labels[poisons:]
    assert others.bincount().tolist() == [7] * int(IMAGES.labels.max() + 1)
    clean = {image.numpy().tobytes() for image in IMAGES.pixels}
    assert all(image.numpy().tobytes() in clean for image in few.images.pixels[poisons:])
