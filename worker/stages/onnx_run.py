"""An ONNX file as others run it: by onnxruntime, in a child process, for comparison with the network made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from safetensors.numpy import load, save

LOGITS = "logits.safetensors"


def run_onnx(source: Path, out: Path, *, batch: int | None) -> dict[str, Any]:
    """`source` holds the file's bytes as `model` uint8 (B,), and `images` float32 (N, C, H, W). Writes `LOGITS`.

    `batch`: the only number of images that the graph takes at once, None where it takes any.
    """
    given = load(source.read_bytes())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # no thread can be made
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(given["model"].tobytes(), options, providers=["CPUExecutionProvider"])
    name, images = session.get_inputs()[0].name, given["images"]
    size = batch or 16
    logits = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]) if batch else part
        logits.append(session.run(None, {name: filled})[0][: len(part)])
    (out / LOGITS).write_bytes(save({"logits": np.ascontiguousarray(np.concatenate(logits), dtype=np.float32)}))
    return {}
