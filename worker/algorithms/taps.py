"""Where to read attention in a network, and the reading: one layer for each spatial resolution, shallow to deep.

SAGE (IEEE S&P 2023) taps the four stages of a ResNet and speaks of convolutional layers elsewhere. Here the taps are
found in one forward pass on a few images, by these rules and without a table of architectures:

1. The trunk. A container is taken apart when it leads through two resolutions or more (`features`), when its output is
   no map (the network itself), or when it holds all the layers. Any other is one unit, be it a block or a whole stage:
   nothing inside is tapped, so a branch, or the part of a block before its stride, is never taken for a layer. The
   trunk ends at global pooling, or at the module with the last weights: the classifier.
2. Layers. A unit with weights is a layer: one with several of them a block, one with a single one a bare convolution,
   which is read after the normalisation and the activation that follow.
3. Taps. The last layer at each resolution. In a network with blocks, a bare convolution that is alone at the first
   resolution is a stem and no tap. A network of one resolution (vision transformers, isotropic convolutional nets)
   is tapped at up to four of its blocks, evenly spaced in depth, the last included.
4. A map of one pixel says nothing (normalised, it is the constant one), and neither does a dead one, all zero for
   every image: they are skipped, and the result says so. A module that runs several times in a pass is no place to
   read at, and is left out.
"""

from __future__ import annotations

import contextlib
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worker.algorithms.errors import TooFewTaps, UnknownTap
from worker.algorithms.notes import Note
from worker.algorithms.trace import Call, Tap, has_weights, main_tensor, settled, trace

__all__ = ["PROBED", "Skipped", "Tap", "Taps", "find_taps", "notes_on", "recording"]

PROBED = 16  # clean images on which a tap must not be dead
MOST_BLOCKS = 4  # tapped in a network of one resolution: as many as a ResNet has stages
LOCAL_POOLING = (nn.MaxPool2d, nn.AvgPool2d)
UNCHANGING = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class Skipped:
    """A layer that would have been tapped, and why it is not."""

    tap: Tap
    reason: str


@dataclass(frozen=True)
class Taps:
    """`used`: two taps or more, shallow to deep. `skipped`: the degenerate ones."""

    used: list[Tap]
    skipped: list[Skipped]


def find_taps(model: nn.Module, images: Tensor, names: Sequence[str] = ()) -> Taps:
    """Where to read attention in `model`: by the rules above, or at the modules `names`, in the order of their runs.

    `images` are inputs (N, C, H, W), float in [0, 1]: a handful, since a map is dead when it is zero for all of them.
    A name is looked up as it stands, then under `network.`. The passes are in evaluation mode; modes are put back.

    Raises `UnknownTap` for a name that is none, or whose module gives no map, and `TooFewTaps` when fewer than two
    usable taps are left.
    """
    with _evaluation(model):
        root = trace(model, images)
        trunk = _trunk(root)
        stem, found = ([], _named(model, root, names)) if names else _searched(root, trunk)
        others = [unit.tap for unit in trunk if unit.tap and unit.weights]
        found = [settled(tap, others, images) for tap in found]
        with recording(model, found) as maps, torch.no_grad():
            model(images)
    reasons = {tap: _degenerate(tap, maps[tap.name]) for tap in found}
    used = [tap for tap, reason in reasons.items() if not reason]
    skipped = [Skipped(tap, reason) for tap, reason in reasons.items() if reason]
    if len(used) < 2:
        raise TooFewTaps(_too_few(used, [*stem, *skipped]))
    return Taps(used, skipped)


def notes_on(taps: Taps) -> list[Note]:
    """What the reader of a result should know of the taps that were skipped."""
    if not taps.skipped:
        return []
    skipped = "; ".join(f"{skip.tap.name.removeprefix('network.')}: {skip.reason}" for skip in taps.skipped)
    return [Note("taps_skipped", f"No attention was read at {skipped}.", "The option `taps` names others.")]


@contextlib.contextmanager
def recording(model: nn.Module, taps: Sequence[Tap]) -> Iterator[dict[str, Tensor]]:
    """Within the context each forward pass leaves the taps' outputs in the dict, by name, as (N, C, H, W): no second
    pass, no change of the network; the gradient flows. The hooks are gone afterwards."""
    outputs: dict[str, Tensor] = {}

    def keep(tap: Tap, output: object) -> None:
        value = main_tensor(output)
        assert isinstance(value, Tensor)  # noqa: S101 - else it would be no tap
        outputs[tap.name] = channels_first(value, tap)

    hooks = [
        model.get_submodule(tap.name).register_forward_hook(lambda _module, _inputs, output, tap=tap: keep(tap, output))
        for tap in taps
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def channels_first(output: Tensor, tap: Tap) -> Tensor:
    if tap.layout == "channels_first":
        return output
    if tap.layout == "channels_last":
        return output.permute(0, 3, 1, 2)
    grid = output[:, tap.leading_tokens :].transpose(1, 2)
    return grid.reshape(len(grid), tap.channels, tap.height, tap.width)


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module has its own mode again, so that a frozen part stays frozen."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


# Rule 1: the trunk


def _trunk(root: Call) -> list[Call]:
    classifier = [call for call in root.walk() if not call.inside and has_weights(call.module)][-1:]
    units = _before_head(_units(root), classifier)
    while len(bearing := [unit for unit in units if unit.weights]) == 1 and bearing[0].inside:
        units = _before_head([unit for call in bearing[0].inside for unit in _units(call)], classifier)
    return units


def _units(call: Call) -> list[Call]:
    if not call.inside:
        return [call]
    inner = [unit for each in call.inside for unit in _units(each)]
    if call.tap is None or _resolutions_entered(call.source, [unit.tap for unit in inner if unit.tap], call.tap) > 1:
        return inner
    return [call]


def _resolutions_entered(source: Tap | None, maps: list[Tap], output: Tap) -> int:
    """How often the map shrinks from `source` to `output`. Maps smaller than the output are on a side way that comes
    back (squeeze-and-excitation); maps that are larger again begin another branch."""
    level, entered = source, 0
    for tap in maps:
        if not tap.is_smaller_than(output) and (level is None or tap.is_smaller_than(level)):
            level, entered = tap, entered + 1
    return entered


def _before_head(units: list[Call], classifier: list[Call]) -> list[Call]:
    kept = []
    for unit in units:
        if _is_global_pooling(unit) or any(call in classifier for call in unit.walk()):
            break
        kept.append(unit)
    return kept


def _is_global_pooling(unit: Call) -> bool:
    return (
        unit.tap is not None and unit.tap.is_pixel and not unit.weights and not isinstance(unit.module, LOCAL_POOLING)
    )


# Rules 2 and 3: layers and taps


@dataclass(frozen=True)
class _Layer:
    weights: int
    tap: Tap


def _searched(root: Call, trunk: list[Call]) -> tuple[list[Skipped], list[Tap]]:
    """The stem, if there is one, and the taps, usable or not."""
    runs = Counter(call.name for call in root.walk())
    levels = _levels(_layers(trunk, runs))
    stem: list[Skipped] = []
    has_blocks = any(layer.weights > 1 and not layer.tap.is_pixel for level in levels for layer in level)
    if has_blocks and [layer.weights for layer in levels[0]] == [1]:
        stem = [Skipped(levels.pop(0)[0].tap, "the stem, one convolution before the blocks")]
    if len(levels) == 1:
        return stem, _evenly_spaced(_longest_row(trunk, levels[0][0].tap, runs))
    return stem, [level[-1].tap for level in levels]


def _layers(units: Sequence[Call], runs: Counter[str]) -> list[_Layer]:
    layers: list[_Layer] = []
    for unit in units:
        if unit.tap is None or runs[unit.name] > 1:
            continue
        if unit.weights:
            layers.append(_Layer(unit.weights, unit.tap))
        elif layers and _follows_on(unit, layers[-1]):
            layers[-1] = replace(layers[-1], tap=unit.tap)
    return layers


def _follows_on(unit: Call, layer: _Layer) -> bool:
    """Whether `unit`, which has no weights, is the normalisation or the activation of a bare convolution."""
    same = unit.tap is not None and replace(unit.tap, name=layer.tap.name) == layer.tap
    return same and layer.weights == 1 and not isinstance(unit.module, UNCHANGING)


def _levels(layers: list[_Layer]) -> list[list[_Layer]]:
    """Layers by resolution. Maps that have grown again, as in a decoder, belong to none."""
    levels: list[list[_Layer]] = []
    for layer in layers:
        if not levels or layer.tap.is_smaller_than(levels[-1][0].tap):
            levels.append([layer])
        elif not levels[-1][0].tap.is_smaller_than(layer.tap):
            levels[-1].append(layer)
    return levels


def _longest_row(trunk: list[Call], level: Tap, runs: Counter[str]) -> list[Tap]:
    """The most blocks that stand in a row in one container, the outermost of equals; layers if there are no blocks."""
    containers = [call.inside for unit in trunk for call in reversed(list(unit.walk()))]
    rows = [[layer for layer in _layers(calls, runs) if _is_level(layer.tap, level)] for calls in [trunk, *containers]]
    blocks = [[layer for layer in row if layer.weights > 1] for row in rows]
    return [layer.tap for layer in max(blocks if any(blocks) else rows, key=len)]


def _is_level(tap: Tap, level: Tap) -> bool:
    return not tap.is_smaller_than(level) and not level.is_smaller_than(tap)


def _evenly_spaced(taps: list[Tap]) -> list[Tap]:
    count = min(MOST_BLOCKS, len(taps))
    return [taps[number * len(taps) // count - 1] for number in range(1, count + 1)]


def _named(model: nn.Module, root: Call, names: Sequence[str]) -> list[Tap]:
    calls = list(root.walk())
    modules = {_module(model, name): name for name in names}
    for module, name in modules.items():
        runs = [call for call in calls if call.module is module]
        if len(runs) != 1:
            raise UnknownTap(f"{name!r} runs {len(runs)} times in a pass; a tap runs once")
        if not runs[0].tap:
            raise UnknownTap(f"{name!r} gives no map; a tap gives one tensor (N, C, H, W), (N, H, W, C) or (N, T, C)")
    return [call.tap for call in calls if call.tap and call.module in modules]


def _module(model: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    for known in (name, f"network.{name}"):
        if name and known in modules:
            return modules[known]
    close = difflib.get_close_matches(name, [known.removeprefix("network.") for known in modules], n=3)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UnknownTap(f"the network has no module {name!r}{meant}")


# Rule 4: what cannot serve


def _degenerate(tap: Tap, values: Tensor) -> str:
    """Why a map cannot serve, empty if it can. `values` (N, C, H, W) are its features of the images given."""
    if tap.is_pixel:
        return "a 1×1 map: normalised, it is the constant one"
    return "" if values.any() else f"dead: all zero on {len(values)} images"


def _too_few(used: list[Tap], skipped: list[Skipped]) -> str:
    found = [f"{tap.name} ({tap.height}×{tap.width})" for tap in used]
    others = [f"{skip.tap.name} ({skip.tap.height}×{skip.tap.width}; {skip.reason})" for skip in skipped]
    message = f"attention is aligned between two layers or more; found: {', '.join(found) or 'none'}"
    return f"{message}; skipped: {', '.join(others)}" if others else message
