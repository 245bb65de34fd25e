"""Perceptual distance in the form of LPIPS: Zhang et al., CVPR 2018, arXiv:1801.03924.

Differences of unit-length features, squared, summed over channels, averaged over places, summed over layers. It is
called LPIPS with LPIPS's weights alone; over another network it bears that network's name.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import ModelError, require
from ..core.hashing import hash_tensors
from ..core.optional_imports import import_optional
from ..models.checkpoint.safetensors_io import open_file
from ..models.vision.judge_net import JudgeNet, load_net
from ..worlds.registry import JUDGE_WEIGHTS
from .registry import scorer

_NORM_EPSILON = 1e-10  # the package's: keeps places where every channel is silent at 0
_TRUNK_PREFIX = "features."  # of torchvision's AlexNet, the convolutions


def layered_distance(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """(b,) distances of feature maps, one (b, c, h, w) a layer, every channel weighing 1; exactly 0 for equal ones."""
    total = torch.zeros(len(before[0]))
    for a, b in zip(before, after, strict=True):
        total = total + (_unit(a) - _unit(b)).square().sum(1).mean((1, 2)).cpu()
    return total


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(1, keepdim=True).sqrt() + _NORM_EPSILON)


def _check(before: Tensor, after: Tensor) -> None:
    require(
        before.shape == after.shape,
        f"pictures of {tuple(before.shape)} and {tuple(after.shape)}: give pairs of one size",
    )


@scorer("moji-judge-features", reads="pair")
class JudgeDistance:
    """How unlike two pictures of `moji` look to its judge's convolutions: LPIPS's form, uniform weights, four layers.

    In [0, 16].
    """

    name = "moji-judge-features"
    version = 1

    def __init__(self, path: Path | None = None) -> None:
        self.net = load_net(path or JUDGE_WEIGHTS)[0]
        trunk = {n: t for n, t in self.net.state_dict().items() if n.startswith(("stem", "body"))}
        self.hash = hash_tensors(trunk)

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        """(b,) distances of pictures (b, 3, 64, 64) in [0, 1]; differentiable in both."""
        _check(before, after)
        parts = zip(before.float().split(64), after.float().split(64), strict=True)
        return torch.cat([layered_distance(_layers(self.net, a), _layers(self.net, b)) for a, b in parts])


def _layers(net: JudgeNet, pictures: Tensor) -> list[Tensor]:
    """After the stem and after each of the three widths: 24 x 32 x 32, 48 x 16 x 16, 96 x 8 x 8, 160 x 4 x 4."""
    found = [net.stem((pictures - 0.5) * 4)]
    for i in range(0, len(net.body), 2):
        found.append(net.body[i + 1](net.body[i](found[-1])))
    return found


@scorer("lpips", reads="pair", extra="eval")
class Lpips:
    """LPIPS 0.1 over AlexNet: the package's learned weights on a trunk of yours on disk.

    `trunk` is torchvision's `alexnet-owt-7be5be79` as safetensors, names as in torchvision. The package would fetch
    that file from the network; here it must be there. Whether it is that file is yours to vouch for: its hash stands in
    the report.
    """

    name = "lpips-alex"
    version = 1

    def __init__(self, trunk: Path) -> None:
        package = import_optional("lpips", "eval", "LPIPS")
        with warnings.catch_warnings():  # The package calls torchvision in a way that torchvision deprecates.
            warnings.simplefilter("ignore")
            self.net = (
                package.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False).eval().requires_grad_(False)
            )
        _fill(self.net.net, trunk)
        self.hash = hash_tensors(self.net.state_dict())

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        """(b,) distances of pictures (b, 3, h, w) in [0, 1], h and w 64 or more; differentiable in both."""
        _check(before, after)
        parts = zip(before.float().split(32), after.float().split(32), strict=True)
        return torch.cat([self.net(a, b, normalize=True).flatten() for a, b in parts])


@torch.no_grad()
def _fill(net: torch.nn.Module, trunk: Path) -> None:
    """Put torchvision's `features.3.weight` where the package has `slice2.3.weight`;
    every one must be there and fit.
    """
    with open_file(trunk) as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys() if name.startswith(_TRUNK_PREFIX)}
    for name, parameter in net.named_parameters():
        wanted = _TRUNK_PREFIX + name.partition(".")[2]
        fits = wanted in tensors and tensors[wanted].shape == parameter.shape
        require(
            fits,
            f"{trunk}: no {wanted} of shape {tuple(parameter.shape)}; give torchvision's AlexNet as safetensors",
            ModelError,
        )
        parameter.copy_(tensors[wanted])
