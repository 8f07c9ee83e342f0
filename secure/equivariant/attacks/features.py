"""How well feature maps of a sealed network show the image: structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean structural similarity of images [..., h, w] in [0, 1], one value each.

    Uniform windows of 7 by 7, or as large as the image allows; constants for a range of one.
    Wang et al., "Image quality assessment", IEEE Transactions on Image Processing 2004, eq. 13.
    """
    height, width = a.shape[-2:]
    window = min(7, height, width)

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x.reshape(-1, 1, height, width), window, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    shared = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    score = ((2 * mean_a * mean_b + c1) * (2 * shared + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return score.mean(dim=(1, 2, 3)).reshape(a.shape[:-2])


def recognised(maps: Tensor, images: Tensor) -> tuple[float, float, float]:
    """Compare feature maps [n, c, h, w] with the images [n, C, H, W] they came from.

    Returns the mean similarity of the most similar map (either sign) to its own image, the same to
    another image, and the share of images that are the most similar of all to their own maps.
    """
    pictures = functional.adaptive_avg_pool2d(
        images.mean(dim=1, keepdim=True), (maps.shape[-2], maps.shape[-1])
    )
    shown, pictures = _ranged(maps), _ranged(pictures)[:, 0]
    n = len(maps)
    scores = torch.stack(
        [
            torch.maximum(ssim(shown, other), ssim(1 - shown, other)).amax(dim=1)
            for other in (picture.expand_as(shown) for picture in pictures)
        ],
        dim=1,
    )
    own = scores.diagonal()
    others = (scores.sum() - own.sum()) / (n * (n - 1))
    identified = (scores.argmax(dim=1) == torch.arange(n)).double().mean()
    return float(own.mean()), float(others), float(identified)


def _ranged(maps: Tensor) -> Tensor:
    """Scale every map to [0, 1]; a constant one becomes zero."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)
