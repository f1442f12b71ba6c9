"""SSIM, the structural similarity of two images (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004).

    SSIM = (2 μ_x μ_y + C₁)(2 σ_xy + C₂) / ((μ_x² + μ_y² + C₁)(σ_x² + σ_y² + C₂))

at every place of a Gaussian window, and their mean; C₁ = 0.01² and C₂ = 0.03² for values in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from worker.algorithms.errors import UnusableImages

WINDOW, SIGMA = 11, 1.5  # pixels
C1, C2 = 0.01**2, 0.03**2


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The mean SSIM (N,) of images `x` and `y` (N, C, H, W), float in [0, 1]: 1 where they are the same, at least -1.

    Differentiable, and in float32 under any autocast: variances are small differences of squares. Only windows that
    lie inside the image count, as in the authors' code. Differs from the paper in colour: each channel is compared
    with its own, and the mean taken. Raises `UnusableImages` for images smaller than the window of 11 × 11 pixels.
    """
    height, width = x.shape[2:]
    if min(height, width) < WINDOW:
        raise UnusableImages(f"SSIM needs images of {WINDOW} × {WINDOW} pixels at least, got {height} × {width}")
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        down, across = _windows(height, x.device), _windows(width, x.device)
        mean_x, mean_y, square_x, square_y, product = down @ torch.stack([x, y, x * x, y * y, x * y]) @ across.T
        variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
        covariance = product - mean_x * mean_y
        brightness = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
        structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
        similarity: Tensor = brightness * structure
        return similarity.mean((1, 2, 3))


def _windows(size: int, device: torch.device) -> Tensor:
    """A Gaussian window at each of the `size` - 10 places in a row of pixels: (places, size), each row sums to one.

    The two-dimensional window is the product of two such, so that two matrix products filter an image: no convolution
    with its lower precision on a GPU.
    """
    offsets = torch.arange(size, device=device) - torch.arange(size - WINDOW + 1, device=device)[:, None]
    weights = torch.exp(-((offsets - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    weights = weights * ((offsets >= 0) & (offsets < WINDOW))
    return weights / weights.sum(1, keepdim=True)
