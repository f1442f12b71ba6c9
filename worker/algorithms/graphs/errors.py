"""Why a graph cannot become a network. `code` is stable and goes on the wire."""

from __future__ import annotations

from worker.algorithms.errors import AlgorithmError


class UnsupportedOperator(AlgorithmError):
    code = "onnx_unsupported_operator"
    hint = (
        "Export the plain classifier, in float32 and without pre- and postprocessing; or send its weights as "
        "safetensors with the name of a network that GET /v1/architectures lists."
    )


class UnfitGraph(AlgorithmError):
    code = "onnx_unfit_graph"
    hint = "Export a classifier with one input (N, C, H, W) of 1 or 3 channels and one output (N, classes)."


class FixedBatch(AlgorithmError):
    code = "onnx_fixed_batch"
    hint = (
        "Export with a free batch: torch.onnx.export(…, dynamic_shapes=({0: torch.export.Dim('batch')},)), or with the "
        "older exporter dynamic_axes={'input': {0: 'batch'}}."
    )


class SharedTensor(AlgorithmError):
    code = "onnx_shared_tensor"
    hint = (
        "Exporters store equal tensors once, as those of batch normalisations that were never trained; what is one in "
        "the file cannot be trained apart."
    )


class GraphTooLarge(AlgorithmError):
    code = "onnx_graph_too_large"
    hint = "Use a smaller network or smaller images: the limits are far above what image classifiers need."
