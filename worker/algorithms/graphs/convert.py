"""A graph to a network that can be trained: PyTorch's own layers, found by whoever looks for them, with the file's
weights in them, for any number of images.

The graph is gone through once, node by node. What no image changes is worked out (exporters write the arithmetic with
shapes out); what images change becomes a module, tried at once on tensors without numbers, so that every shape is
known, and bounded, before anything of that size is made. It is tried with two batch sizes: what differs between them
depends on the number of images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from worker.algorithms.graphs.arguments import broadcast
from worker.algorithms.graphs.blocks import Step, assembled
from worker.algorithms.graphs.combined import combined
from worker.algorithms.graphs.constants import fold
from worker.algorithms.graphs.elementwise import ELEMENTWISE
from worker.algorithms.graphs.errors import FixedBatch, GraphTooLarge, SharedTensor, UnfitGraph, UnsupportedOperator
from worker.algorithms.graphs.graph import Graph, Node, Use
from worker.algorithms.graphs.layers import LAYERS, is_matrix_of_weights, matrix_product, with_bias
from worker.algorithms.graphs.operations import OPERATIONS
from worker.algorithms.graphs.values import Held, Known, Layer, Running, Value
from worker.algorithms.notes import Note
from worker.algorithms.trace import has_weights

BATCHES = (2, 3)
MOST_VALUES = 2**25  # of one value for one image
MOST_VALUES_TOGETHER = 2**29  # of all values for one image
MOST_CONSTANTS_TOGETHER = 2**26
MOST_AXES = 8


@dataclass(frozen=True)
class Converted:
    """`network` gives logits; where the file ends in a softmax, `ends_in_softmax`, and the network leaves it away.

    `uses` are the weights, where they are in the file and where in the network.
    """

    network: nn.Module
    num_classes: int
    in_channels: int
    ends_in_softmax: bool
    uses: tuple[Use, ...]
    notes: tuple[Note, ...]


@dataclass
class _Walk:
    graph: Graph
    values: dict[str, Value]
    reads: Counter[str]
    steps: list[Step] = field(default_factory=list)
    makers: dict[str, Step] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    trained: dict[str, tuple[object, Tensor]] = field(default_factory=dict)
    has_weights: bool = False
    total: int = 0
    constants: int = 0


def convert(graph: Graph, size: tuple[int, int]) -> Converted:
    """The network of `graph` for images of `size` (height, width), on the CPU, float32, in evaluation mode.

    Raises `UnsupportedOperator`, `UnfitGraph`, `FixedBatch` and `GraphTooLarge`.
    """
    walk = _begin(graph, size)
    for node in graph.nodes:
        try:
            _take(walk, node)
        except (ArithmeticError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise UnfitGraph(f"{node} does not fit its inputs: {str(error)[:300]}") from error
    softmax = _final_softmax(walk)
    if softmax is not None:
        walk.steps = [step for step in walk.steps if step is not softmax]
    result = softmax.inputs[0] if softmax else graph.output
    logits = walk.values.get(result)
    if not isinstance(logits, Running) or not any(result in step.outputs for step in walk.steps):
        raise UnfitGraph("the output does not depend on the images")
    if len(logits.shape) != 2 or [len(each) for each in logits.at] != [len(each) for each in _input(walk).at]:
        raise UnfitGraph(f"the output has the shape {tuple(logits.shape)} for {len(_input(walk).at[0])} images")
    if both := sorted(walk.fixed & walk.trained.keys()):
        raise SharedTensor(f"the tensor {both[0][:80]!r} is read as weights and as a constant")
    network = assembled(walk.steps, graph.input, result).eval()
    _check_batches(network, _input(walk), logits.shape[1])
    return Converted(
        network,
        num_classes=logits.shape[1],
        in_channels=_input(walk).shape[1],
        ends_in_softmax=softmax is not None,
        uses=_uses(walk, network),
        notes=tuple(_notes(walk, softmax is not None)),
    )


def _begin(graph: Graph, size: tuple[int, int]) -> _Walk:
    batch, channels, height, width = graph.shape
    if channels not in (1, 3):
        raise UnfitGraph(
            f"the input has {channels or 'any number of'} channels; 1 or 3 are supported, in the layout (N, C, H, W)"
        )
    if height not in (None, size[0]) or width not in (None, size[1]):
        raise UnfitGraph(
            f"the graph takes images of {height}×{width}, the preprocessing says {size[0]}×{size[1]}",
            "Give the graph's own size in the model's preprocessing.",
        )
    shapes = [(count, channels, *size) for count in (BATCHES if batch is None else (batch,))]
    count = len(shapes)
    values: dict[str, Value] = {name: Known((tensor,) * count, name) for name, tensor in graph.tensors.items()}
    values[graph.input] = Running(tuple(torch.empty(shape, device="meta") for shape in shapes))
    return _Walk(graph, values, Counter([name for node in graph.nodes for name in node.inputs] + [graph.output]))


def _input(walk: _Walk) -> Running:
    value = walk.values[walk.graph.input]
    assert isinstance(value, Running)  # noqa: S101 - so it began
    return value


def _take(walk: _Walk, node: Node) -> None:
    inputs = [walk.values[name] if name else None for name in node.inputs]
    if node.op in ("Shape", "Size"):
        _measure(walk, node, inputs)
    elif all(value is None or isinstance(value, Known) for value in inputs):
        _work_out(walk, node, inputs)
    elif not _is_bias(walk, node, inputs):
        layer = _layer(walk, node, inputs)
        _tie(walk, layer.module, layer.held)
        read = {held.position for held in layer.held}
        _read_as_constants(walk, [value for place, value in enumerate(inputs) if place not in read])
        _run(walk, node, layer)


def _measure(walk: _Walk, node: Node, inputs: Sequence[Value | None]) -> None:
    value = inputs[0] if inputs else None
    if value is None:
        raise UnfitGraph(f"{node} has no input")
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    if not isinstance(start, int) or not (end is None or isinstance(end, int)):
        raise UnfitGraph(f"{node}: start and end are no whole numbers")
    sizes = [list(each.shape) if node.op == "Shape" else each.numel() for each in value.at]
    cut = [each[start:end] if isinstance(each, list) else each for each in sizes]
    walk.values[node.outputs[0]] = Known(tuple(torch.tensor(each, dtype=torch.int64) for each in cut))


def _work_out(walk: _Walk, node: Node, inputs: Sequence[Value | None]) -> None:
    """What is known already. The file's own tensors go on as such through Identity and Transpose."""
    first = inputs[0] if inputs else None
    if isinstance(first, Known) and (node.op == "Identity" or _is_for_each_image(walk, node, first, inputs[1:])):
        walk.values[node.outputs[0]] = first
        return
    results = [
        fold(node, [None if value is None else value.at[place] for value in inputs])
        for place in range(len(_input(walk).at))
    ]
    _count_constants(walk, node, inputs, results)
    for place, name in enumerate(node.outputs):
        if name:
            walk.values[name] = Known(tuple(each[place] for each in results))
    if node.op == "Transpose" and isinstance(first, Known) and first.tensor and first.permutation is None:
        order = node.attributes.get("perm", list(range(first.at[0].ndim))[::-1])
        assert isinstance(order, list)  # noqa: S101 - else it would not have been folded
        known = walk.values[node.outputs[0]]
        walk.values[node.outputs[0]] = Known(known.at, first.tensor, tuple(int(axis) for axis in order))
    else:
        _read_as_constants(walk, inputs)


def _count_constants(
    walk: _Walk, node: Node, inputs: Sequence[Value | None], results: Sequence[Sequence[Tensor]]
) -> None:
    """Views of what is there already take no memory."""
    there = {each.data_ptr() for value in inputs if value is not None for each in value.at if each.device.type == "cpu"}
    walk.constants += sum(each.numel() for made in results for each in made if each.data_ptr() not in there)
    if walk.constants > MOST_CONSTANTS_TOGETHER:
        raise GraphTooLarge(f"{node} and those before it make more than {MOST_CONSTANTS_TOGETHER} constants")


def _is_for_each_image(walk: _Walk, node: Node, value: Known, others: Sequence[Value | None]) -> bool:
    """Whether `node` only repeats one of the file's tensors for each image, as the class token of a transformer is."""
    target = others[0] if others else None
    if node.op != "Expand" or value.tensor is None or not isinstance(target, Known) or len(value.at[0]) != 1:
        return False
    wanted = [[int(size) for size in each.flatten().tolist()] for each in target.at]
    kept = value.at[0].shape[1:]
    return all(
        sizes[:1] == [len(images)] and broadcast(sizes[1:], kept) == list(kept) and len(sizes) == 1 + len(kept)
        for sizes, images in zip(wanted, _input(walk).at, strict=True)
    )


def _read_as_constants(walk: _Walk, inputs: Sequence[Value | None]) -> None:
    walk.fixed.update(value.tensor for value in inputs if isinstance(value, Known) and value.tensor)


def _is_bias(walk: _Walk, node: Node, inputs: Sequence[Value | None]) -> bool:
    """Exporters write x·W + b as two nodes; here it is one layer again."""
    if node.op != "Add":
        return False
    for place, name in enumerate(node.inputs):
        made, other = walk.makers.get(name), inputs[1 - place]
        if made and isinstance(made.module, nn.Linear) and walk.reads[name] == 1 and isinstance(other, Known):
            held = with_bias(made.module, node, other, 1 - place)
            if held is not None:
                _tie(walk, made.module, (held,))
                made.held += (held,)
                made.outputs = [node.outputs[0]]
                walk.makers[node.outputs[0]] = made
                walk.values[node.outputs[0]] = walk.values[name]
                return True
    return False


def _layer(walk: _Walk, node: Node, inputs: Sequence[Value | None]) -> Layer:
    if node.op in LAYERS:
        return LAYERS[node.op](node, inputs)
    if node.op == "MatMul" and is_matrix_of_weights(inputs):
        return matrix_product(node, inputs)
    if node.op in OPERATIONS:
        first, *others = inputs
        arguments = [value for value in others if not isinstance(value, Running)]
        if not isinstance(first, Running) or len(arguments) < len(others):
            raise UnsupportedOperator(f"{node} is told how to work by the images")
        return Layer(OPERATIONS[node.op](node, first, arguments))
    if node.op in ELEMENTWISE or node.op in ("Concat", "MatMul"):
        return combined(node, inputs, trained=walk.has_weights)
    raise UnsupportedOperator(f"the operator {node.op[:80]} is not supported ({node})")


def _tie(walk: _Walk, module: nn.Module, held: Sequence[Held]) -> None:
    """One tensor of the file is one tensor of the network, however many layers read it."""
    for each in held:
        path, _, name = each.name.rpartition(".")
        owner = module.get_submodule(path)
        way = (each.permutation, name in dict(owner.named_parameters(recurse=False)))
        known_way, tensor = walk.trained.setdefault(each.tensor, (way, getattr(owner, name)))
        if known_way != way:
            raise SharedTensor(f"the tensor {each.tensor[:80]!r} is read in two ways, and training would part them")
        setattr(owner, name, tensor)


def _run(walk: _Walk, node: Node, layer: Layer) -> None:
    read = [walk.values[node.inputs[place]] for place in layer.reads]
    outputs = [name for name in node.outputs if name]
    made = [_tried(layer.module, [value.at[probe] for value in read]) for probe in range(len(_input(walk).at))]
    for place, name in enumerate(outputs):
        if place and len(made[0]) <= place:
            if walk.reads[name]:
                raise UnsupportedOperator(f"{node}: only its first output is supported")
            continue
        values = Running(tuple(each[place] for each in made))
        count = values.at[0].numel() // max(1, len(_input(walk).at[0]))
        walk.total += count
        if count > MOST_VALUES or walk.total > MOST_VALUES_TOGETHER or values.at[0].ndim > MOST_AXES:
            raise GraphTooLarge(
                f"{node} makes {tuple(values.shape)}, {count} values an image; at most {MOST_VALUES} are allowed, and "
                f"{MOST_VALUES_TOGETHER} of all nodes together"
            )
        walk.values[name] = values
    inputs = [node.inputs[place] for place in layer.reads]
    step = Step(node, layer.module, inputs, outputs[: len(made[0])], layer.held, made[0][0].shape)
    walk.steps.append(step)
    walk.makers.update(dict.fromkeys(step.outputs, step))
    walk.has_weights |= any(has_weights(module) for module in layer.module.modules())


def _tried(module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """The module's outputs without their numbers: nothing is computed, and nothing of their size made."""
    state = {name: tensor.to("meta") for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    with torch.no_grad():
        result = functional_call(module.eval(), state, tuple(inputs))
    return list(result) if isinstance(result, tuple | list) else [result]


def _final_softmax(walk: _Walk) -> Step | None:
    last = walk.makers.get(walk.graph.output)
    return last if last and isinstance(last.module, nn.Softmax) and walk.reads[walk.graph.output] == 1 else None


def _check_batches(network: nn.Module, images: Running, num_classes: int) -> None:
    """Any number of images goes through."""
    if num_classes < 2:
        raise UnfitGraph(f"the output has {num_classes} values an image; a classifier has two classes or more")
    for count in (1, 5):
        try:
            logits = _tried(network, [torch.empty((count, *images.shape[1:]), device="meta")])[0]
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise FixedBatch(f"the graph does not take {count} images: {str(error)[:200]}") from error
        if logits.shape != (count, num_classes):
            raise FixedBatch(f"{count} images give {tuple(logits.shape)} instead of {(count, num_classes)}")


def _uses(walk: _Walk, network: nn.Module) -> tuple[Use, ...]:
    names = {module: name for name, module in network.named_modules()}
    return tuple(
        Use(held.tensor, f"{names[step.module]}.{held.name}", held.permutation)
        for step in walk.steps
        if step.module in names
        for held in step.held
    )


def _notes(walk: _Walk, ends_in_softmax: bool) -> list[Note]:
    modules = [module for step in walk.steps for module in step.module.modules()]
    biased = sum(isinstance(module, nn.Conv2d) and module.bias is not None for module in modules)
    norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
    notes = []
    if biased and not norms:
        notes.append(
            Note(
                "batch_norms_folded",
                f"{biased} convolutions have a bias, and the file has no batch normalisation: exporters fold one into "
                "the other.",
                "Training is steadier with them. Of a network in evaluation mode they are kept by torch.onnx.export(…, "
                "dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False).",
            )
        )
    if ends_in_softmax:
        notes.append(
            Note(
                "softmax_left_away",
                "The graph ends in a softmax; it was measured and trained without it.",
                "Nothing is to be done: the purified graph ends in it again.",
            )
        )
    return notes
