from __future__ import annotations

import torch

from worker.stages.device import environment, pick


def test_the_environment_names_what_the_numbers_depend_on() -> None:
    device = pick()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    found = environment(torch.device("cpu"), "1.2.3")
    assert (found.redeem, found.torch, found.threads) == ("1.2.3", torch.__version__, torch.get_num_threads())
    assert found.device.startswith("CPU")
    assert found.number_format in ("bfloat16", "float32")
