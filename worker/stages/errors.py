"""Why a job cannot go on with what was uploaded.

StageError
├── EmptyBundle          a bundle without images
├── UndecodableImages    files in a bundle that are no PNG, JPEG or WebP, or damaged
├── BundleNotUnderstood  a bundle that is neither of the two layouts
├── BundleTooLarge       more files, bytes or pixels than are taken in
├── LabelOutOfRange      labels that the network has no output for
├── TruncatedFile        a file of tensors that ends too early
├── UnsupportedWeights   a weights file in a format that is not known
├── Refused              a file that breaks one of the rules in refusals.py, which has a code for each
├── BundleTooSmall       too few clean images to train, choose and measure with
├── TargetsMismatch      targets that do not fit the triggered bundle
├── ReadingTooSlow       a file that its reader did not get through in time
├── ReadingTooLarge      a file that made its reader need more memory, or write more, than is given
├── ReadingFailed        a file that its reader broke on
├── ReadingKilled        a file whose reader was killed from outside, and the next one too
├── ReadingForbidden     a file that made its reader try what no reader needs: a program, a socket, code
├── UnfitPreprocessing   images of a size or with channels that the network cannot take
├── Unsupported          a method, an option or a field that only a newer release knows
└── StoreDamaged         bytes in the store that are gone, or not what their hash says
"""

from __future__ import annotations

from worker.stages.refusals import REFUSALS


class StageError(Exception):
    """Base of every error that a stage raises on purpose.

    `code` is stable and goes on the wire; the message says what happened and what was expected; `hint` says what to do.
    """

    code = "stage_error"
    hint = ""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class Unsupported(StageError):
    code = "unsupported"
    hint = "The operator should upgrade the workers, as each release does before the API; then retry the job."


class EmptyBundle(StageError):
    code = "empty_bundle"
    hint = "Send a zip with one folder of PNG, JPEG or WebP files per class, or a safetensors file."


class UndecodableImages(StageError):
    code = "undecodable_images"
    hint = "Open the files named with an image viewer; send them again as 8-bit PNG, JPEG or WebP, or leave them out."


class BundleNotUnderstood(StageError):
    code = "bundle_not_understood"
    hint = (
        "Send a zip with one folder per class (0/…png, or names with a classes.json that lists them in order), or a "
        "safetensors file with `images` uint8 (N, C, H, W) and `labels` int64 (N,)."
    )


class BundleTooLarge(StageError):
    code = "bundle_too_large"
    hint = "A few hundred to a few thousand images are enough: send fewer, or smaller ones."


class LabelOutOfRange(StageError):
    code = "label_out_of_range"
    hint = "Labels count from 0 to one less than the number of classes; check the folders against the network."


class Refused(StageError):
    """`code` is a key of `REFUSALS`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, REFUSALS[code])
        self.code = code


class TruncatedFile(StageError):
    code = "truncated_file"
    hint = "The file was cut off before it was uploaded: compare its size and hash with the original, and upload again."


class UnsupportedWeights(StageError):
    code = "unsupported_weights"
    hint = "Save the state dict with safetensors: `safetensors.torch.save_file(network.state_dict(), path)`."


class BundleTooSmall(StageError):
    code = "bundle_too_small"
    hint = "Send at least 20 clean images, better a few hundred, with some of every class."


class TargetsMismatch(StageError):
    code = "targets_mismatch"
    hint = "Give one target for all triggered images, or as many as the bundle has images, in the bundle's order."


class ReadingTooSlow(StageError):
    code = "reading_too_slow"
    hint = "Send a smaller file, or the same content in a plainer one: safetensors, or images as PNG."


class ReadingTooLarge(StageError):
    code = "reading_too_large"
    hint = "Send a smaller file: it unpacks to more than a file of its size should."


class ReadingFailed(StageError):
    code = "reading_failed"
    hint = "The file is probably damaged: make it again from the original. The worker's log has the details."


class ReadingKilled(StageError):
    code = "reading_killed"
    hint = "Probably the worker's memory ran out: retry the job, on a worker with more of it or with a smaller file."


class ReadingForbidden(StageError):
    code = "reading_forbidden"
    hint = "The file tried to run code. Do not open it anywhere; ask whoever gave it to you for a safetensors file."


class UnfitPreprocessing(StageError):
    code = "unfit_preprocessing"
    hint = "Give the size and the channels that the network was trained with in the model's preprocessing."


class StoreDamaged(StageError):
    code = "store_damaged"
    hint = "The server's store lost or altered a file. Upload it again, and have the operator check the disk."
