"""A network that tells predicted images under targets from those under anchors, trained beside the student (DoCo)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import NumericsError, require
from ...models import ModelView
from ..distributed import ProcessGroup
from ..loop import Descent
from ..trainables import uniform_init

_KERNEL, _STRIDE, _PADDING, _SLOPE = 4, 2, 1, 0.2
_FIRST_CHANNELS, _MOST_HALVINGS, _SMALLEST_SIDE = 64, 4, 4  # sides of 64 cells leave 4 before the last convolution
_BETAS = (0.5, 0.999)
_LARGEST_LOSS = 100.0  # It is 2 log 2 at first; a sound discriminator is never so far wrong.
_ANCHOR, _TARGET = 0.0, 1.0  # labels


@dataclass
class PatchNet:
    """Convolutions that give a logit for each patch of latents: PatchGAN's, over `channels` channels.

    Batch normalisation has no memory: each batch is normalised by itself, as in training. Differs: smaller latents pass
    fewer of the four halving convolutions, so that 3 x 3 logits are left.
    """

    channels: int
    side: int
    seed: int = 0
    dtype: torch.dtype = torch.float32
    weights: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        rng, widths = torch.Generator().manual_seed(self.seed), [self.channels]
        halvings = max(1, min(_MOST_HALVINGS, int(log2(self.side / _SMALLEST_SIDE))))
        widths += [_FIRST_CHANNELS * 2**i for i in range(halvings)]
        self.weights = []
        for i, (into, out) in enumerate(zip(widths, [*widths[1:], 1], strict=True)):
            inputs = into * _KERNEL**2
            kernel = uniform_init((out, into, _KERNEL, _KERNEL), inputs, rng)
            is_normed = 0 < i < halvings
            pair = (torch.ones(out), torch.zeros(out)) if is_normed else (uniform_init((out,), inputs, rng),)
            self.weights += [part.to(self.dtype).requires_grad_() for part in (kernel, *pair)]

    def __call__(self, x: Tensor, weights: Sequence[Tensor] = ()) -> Tensor:
        """Return logits (b, 1, h', w') of latents (b, c, h, w), by other weights if some are given."""
        left = list(weights or self.weights)
        kernel, bias = left.pop(0), left.pop(0)
        x = F.leaky_relu(F.conv2d(x.to(kernel), kernel, bias, _STRIDE, _PADDING), _SLOPE)
        while len(left) > 2:
            kernel, scale, shift = left.pop(0), left.pop(0), left.pop(0)
            x = F.conv2d(x, kernel, None, _STRIDE, _PADDING)
            x = F.leaky_relu(F.batch_norm(x, None, None, scale, shift, training=True), _SLOPE)
        return F.conv2d(x, left[0], left[1], 1, _PADDING)


@dataclass
class Discriminator:
    """A `PatchNet` with a descent of its own, whose gradients all processes of a training share."""

    model: ModelView
    lr: float
    seed: int = 0
    net: PatchNet = field(init=False)
    descent: Descent = field(init=False)

    def __post_init__(self) -> None:
        channels, *sides = self.model.latent_shape
        self.net = PatchNet(channels, min(sides), self.seed, torch.promote_types(self.model.dtype, torch.float32))
        self.net.weights = [part.detach().to(self.model.device).requires_grad_() for part in self.net.weights]
        processes = ProcessGroup(self.model.device, is_distributed=True)
        self.descent = Descent(self.net.weights, self.lr, betas=_BETAS, processes=processes)

    def anchor_loss(self, x: Tensor) -> Tensor:
        """How far latents (b, c, h, w) are from being taken for an anchor's; its gradient reaches them alone."""
        fixed = [part.detach().clone() for part in self.net.weights]  # `learn` may change the weights before.
        return _label_loss(self.net(x, fixed), _ANCHOR)

    def learn(self, said: Tensor, wanted: Tensor) -> float:
        """Take one step: `said` (b, c, h, w) are a target's, `wanted` an anchor's. Return the loss before it.

        Raises `NumericsError` if it diverges.
        """
        said, wanted = said.detach(), wanted.detach()

        def loss(step: int, rng: torch.Generator) -> Tensor:
            return _label_loss(self.net(said), _TARGET) + _label_loss(self.net(wanted), _ANCHOR)

        try:
            (found,) = self.descent.run(loss, 1)
        except NumericsError as error:
            raise NumericsError(f"the discriminator diverged: {error}") from None
        message = f"the discriminator diverged, its loss became {found:.3g}: give it a smaller lr than {self.lr}"
        require(found < _LARGEST_LOSS, message, NumericsError)
        return found

    def state(self) -> Mapping[str, Tensor]:
        return self.descent.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.descent.restore(state)


def _label_loss(logits: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
