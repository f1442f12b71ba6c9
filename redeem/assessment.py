"""What is measured of a model, as a report has it, with one resource for the findings of each detector."""

from __future__ import annotations

from typing import Literal

from redeem.wire import Fraction, Resource


class MpaDrop(Resource):
    """By how much the MPA fell against the suspect's, on the same images: `lost` of them the suspect had right and this
    model has wrong, `gained` the other way round. `drop` is (lost - gained) / images, negative where the MPA rose;
    `interval` covers the drop on all images of the kind with 95 % confidence."""

    drop: float
    interval: tuple[float, float]
    lost: int
    gained: int


class NeuralCleanse(Resource):
    """Neural Cleanse over all labels. `norms` are L1 norms of the reversed masks in pixels; `reached` says whether
    the reversed trigger flips enough images to the label; a label that was not reached has no usable norm and counts
    with that of a full mask, all `pixels`.

    `statistic` says what `index` and `indices` (one a label) are. "mad": distances below the median in units of the
    median absolute deviation, which the paper suspects above 2; labels are flagged by `p_value` and size. "ratio": the
    median of the other norms over the norm, suspicious from 10 on; it stands in where there are two or three labels, or
    where the MAD is zero, and has no p-value. `index` is that of the smallest norm.
    """

    index: float
    p_value: Fraction | None
    flagged: list[int]
    norms: list[float]
    reached: list[bool]
    statistic: Literal["mad", "ratio"] = "mad"
    indices: list[float] = []
    median: float | None = None
    mad: float | None = None
    """Median absolute deviation of the norms, in pixels, not scaled."""
    median_suspect: bool = False
    """Half of the labels or more have triggers so small that the median itself may be of backdoors."""
    pixels: int | None = None
    """H · W of an image: the norm of a full mask."""
    images: int | None = None
    """Clean images that the triggers were reversed on."""
    seeds: int = 1
    """Searches made; `norms` are medians over them."""
    spread: list[float] = []
    """The largest less the smallest norm of each label over the seeds."""


class Neuron(Resource):
    """A neuron that raises one `label`: a `channel` of the layer. It does so for a share `consistency` of the images,
    and by `lead` more than the second label, in logits, 0 or more. The trigger reversed for it has `pixels`, the L1
    norm of its mask, and the attack success rate `asr`; None where every image to measure it on is of the label."""

    channel: int
    label: int
    consistency: Fraction
    lead: float
    pixels: float
    asr: Fraction | None


class BrainStimulation(Resource):
    """ABS in one `layer`, a module of the network. `flagged`: the labels that a small trigger leads to by driving one
    neuron; `neurons`: the candidates, the largest lead first, none where no neuron raises one label consistently.
    Triggers were reversed on `images`, and their success measured on `images_measured` others; all are clean."""

    flagged: list[int]
    neurons: list[Neuron]
    layer: str
    images: int
    images_measured: int


class UniversalPerturbation(Resource):
    """One faint pattern a label, at most `radius` a value, of images in [0, 1]. `success`, one entry a label: the share
    of clean images of other labels that it leads there, None where there is no such image. `stands_out`: the label that
    is by far the easiest to reach, None where none is. Patterns were searched on `images` and measured on
    `images_measured` others."""

    stands_out: int | None
    success: list[Fraction | None]
    radius: float
    images: int
    images_measured: int


class UniversalWarp(UniversalPerturbation):
    """One smooth warp a label instead of a pattern; `radius` is in pixels."""


class Strip(Resource):
    """STRIP on the triggered `images`: the share whose predictions stay certain when clean images are laid over them,
    an entropy below `threshold` bits. `false_rejection` is the share of the `clean_images` below it, and so about what
    harmless images would have."""

    flagged_share: Fraction
    threshold: float
    false_rejection: Fraction
    images: int
    clean_images: int


class SentiNet(Resource):
    """SentiNet on the triggered `images`: the share whose decisive region takes its label along to other images.
    `false_rejection` is the share of the `clean_images` that would be flagged, and so about what harmless images would
    have."""

    flagged_share: Fraction
    false_rejection: Fraction
    images: int
    clean_images: int


class ActivationClustering(Resource):
    """Activation clustering of the triggered `images` beside the `clean_images`. `flagged_labels`: what the model takes
    a cluster of triggered images for; `flagged_share` of the triggered images are in such clusters.

    One entry a label: `silhouettes`, -1 to 1, how far apart its two clusters are; `relative_sizes`, the share of its
    clean images in the cluster that triggered ones prefer, over the share of its triggered images there: 1 where they
    spread alike, 0 where no clean image is with them. Both are None for a label that the model gives to fewer than ten
    images of either kind.
    """

    flagged_labels: list[int]
    flagged_share: Fraction
    silhouettes: list[float | None]
    relative_sizes: list[Fraction | None]
    images: int
    clean_images: int


class Retuning(Resource):
    """Whether the backdoor comes back: the ASR of the reversed trigger of `label` on the purified model `before` and
    `after` a few steps of training with images that carry it, and the same of a control, a trigger that was never
    there. `comeback`, -2 to 2, is how much more of it came than of the control; about 0 where nothing sleeps. Measured
    on `images` clean images that were not trained on."""

    label: int
    before: Fraction
    after: Fraction
    control_before: Fraction
    control_after: Fraction
    comeback: float
    images: int


class WeightPath(Resource):
    """The straight line from the suspect's weights, position 0, to the purified ones, position 1. At `positions`:
    `losses` (mean cross-entropy, nats) and `accuracies` on clean `images`, and `surrogate_asrs`, the ASR of the
    reversed trigger of `label` there; None where all images are of the label.

    `barrier`: how far the loss rises above the straight line between its ends, in nats. `alive_until`: the last
    position at which the trigger has half of its ASR on the suspect or more; None where it has none there. `changes`,
    by stage: the norm of the change of the weights over that of the suspect's weights.
    """

    label: int
    positions: list[Fraction]
    losses: list[float]
    accuracies: list[Fraction]
    surrogate_asrs: list[Fraction | None]
    barrier: float
    alive_until: Fraction | None
    changes: dict[str, float]
    images: int


class Missing(Resource):
    """A `detector` that was asked for and has no findings: it could not run here, or refused the model or the images.
    `reason` is a sentence, `advice` what may be done."""

    detector: str
    kind: Literal["not_run", "refused"]
    reason: str
    advice: str


class Assessment(Resource):
    """One measurement of one model. None means not measured, and a flag says why; a detector that nobody asked for has
    no flag. The intervals are Wilson's, of 95 %; `mpa_drop` is None for the suspect itself."""

    mpa: Fraction
    mpa_images: int
    mpa_interval: tuple[Fraction, Fraction] | None = None
    mpa_drop: MpaDrop | None = None
    mpa_per_class: list[Fraction | None]
    asr: Fraction | None
    asr_images: int
    asr_interval: tuple[Fraction, Fraction] | None = None
    recovery_accuracy: Fraction | None
    surrogate_asr: Fraction | None
    surrogate_asr_images: int = 0
    neural_cleanse: NeuralCleanse | None
    brain_stimulation: BrainStimulation | None = None
    universal_perturbation: UniversalPerturbation | None = None
    universal_warp: UniversalWarp | None = None
    strip: Strip | None = None
    sentinet: SentiNet | None = None
    activation_clustering: ActivationClustering | None = None
    retuning: Retuning | None = None
    """Of the purified model only, as is the next."""
    weight_path: WeightPath | None = None
    missing: list[Missing] = []
    """Detectors that were asked for and have no findings above."""
