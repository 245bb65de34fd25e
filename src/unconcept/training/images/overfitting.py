"""What keeps a classifier from overfitting: distraction over-memorisation (DOM) and Random Erasing, sample by sample.

For the samples of a diffusion model's training see `sample_options.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import require
from ..options import TrainingOptions
from ..sample_options import random_rectangle

ImageAugmentation = Callable[[Tensor, torch.Generator], Tensor]


def sample_losses(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each image (n,), with the network in evaluation mode and without a gradient."""
    was = network.training
    network.eval()
    with torch.no_grad():
        found = F.cross_entropy(network(x), y, reduction="none")
    network.train(was)
    return found


def keep_unlearned(losses: Tensor, natural: Tensor, threshold: float) -> Tensor:
    """Return the mean over the batch of those losses (n,) whose natural loss is at least the threshold (DOM_RE).

    The losses that are removed count in the mean as zeros, as in the authors' code.
    """
    return (losses * (natural >= threshold)).mean()


def augment_learned(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    threshold: float,
    augment: ImageAugmentation,
    rng: torch.Generator,
    tries: int = 3,
    share: float = 0.5,
) -> Tensor:
    """Return the images (n, ..) with those changed whose loss is at most the threshold (DOM_DA).

    Each is augmented until its loss reaches the threshold; a try that fails is mixed in with `share`, and after `tries`
    the last mixture stays. Differs: the authors choose in training mode, and take the last try as it is.
    """
    require(tries > 0 and 0 <= share <= 1, f"tries must be > 0 and share 0 to 1, got {tries} and {share}")
    found = x.clone()
    left = sample_losses(network, x, y) <= threshold
    for _ in range(tries):
        if not bool(left.any()):
            break
        changed = augment(found[left], rng)
        is_hard = sample_losses(network, changed, y[left]) >= threshold
        mixed = (1 - share) * found[left] + share * changed
        shape = (-1, *[1] * (x.ndim - 1))
        found[left] = torch.where(is_hard.view(shape), changed, mixed)
        left[left.clone()] = ~is_hard
    return found


def erase_rectangles(x: Tensor, options: TrainingOptions, rng: torch.Generator, fill: float = 0.0) -> Tensor:
    """Return images (n, c, h, w), each with probability `random_erasing` with a rectangle set to `fill`.

    Give the mean of the data as it enters the network. Differs: every channel is filled; the authors fill one alone of
    images that do not have three.
    """
    found = x.clone()
    for row in found:
        if float(torch.rand((), generator=rng)) < options.random_erasing:
            top, left, h, w = random_rectangle(row.shape[1], row.shape[2], options, rng)
            row[:, top : top + h, left : left + w] = fill
    return found
