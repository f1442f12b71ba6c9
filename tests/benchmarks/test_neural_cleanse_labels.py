from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import neural_cleanse_labels

torch.set_num_threads(1)
TINY = ["--steps", "2", "--batch-size", "2", "--width", "4", "--images", "16", "--training-images", "16"]


def test_a_row_for_each_number_of_labels(tmp_path: Path) -> None:
    record_at = tmp_path / "record.json"
    code = neural_cleanse_labels.main(["--labels", "8", "2", *TINY, "--record", str(record_at)])
    record = json.loads(record_at.read_text())
    assert [row["labels"] for row in record["rows"]] == [2, 8]
    assert code == (0 if record["exponent"] < 1 else 1)


def test_growth_is_the_slope_on_logarithmic_axes() -> None:
    assert neural_cleanse_labels.growth([{"labels": 10, "seconds": 3}, {"labels": 100, "seconds": 30}]) == 1
    assert neural_cleanse_labels.growth([{"labels": 10, "seconds": 3}, {"labels": 1000, "seconds": 30}]) == 0.5


def test_classes_look_alike_in_every_draw_and_can_be_learnt() -> None:
    words = [*TINY[:5], "8", "--training-images", "800"]
    model = neural_cleanse_labels.trained(neural_cleanse_labels.parse(words), 5)
    unseen = neural_cleanse_labels.coarse_patterns(100, 5, seed=1)
    assert unseen.labels.bincount().tolist() == [20] * 5
    with torch.no_grad():
        right = model(unseen.pixels / 255).argmax(1) == unseen.labels
    assert right.float().mean().item() > 0.8  # by chance, 0.2
