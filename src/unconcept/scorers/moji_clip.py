"""moji-clip: how well a picture of `moji` and a text agree. The judge's embedding, read in the text encoder's space.

The projection was trained contrastively against a frozen copy of `moji`'s own text encoder, on artwork alone.
"""

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from .moji_net import JudgeNet, load_net

Embed = Callable[[Sequence[str]], Tensor]  # texts to end-of-text states (n, d) of the *unedited* text encoder


class MojiClip:
    """CLIP score and zero-shot labels. `embed` is the original model's `view.embed(texts, at="first_eot")`."""

    name = "moji-clip"
    version = 1

    def __init__(self, embed: Embed, path: Path | None = None) -> None:
        path = path or Path(str(resources.files("unconcept.moji") / "judge.safetensors"))
        self.embed = embed
        self.net: JudgeNet = load_net(path)[0]
        with safe_open(path, "pt") as file:
            weight, bias, center = (file.get_tensor(f"clip.{n}").float() for n in ("projection.weight", "projection.bias", "center"))
        self.weight, self.bias, self.center = weight, bias, center

    def score(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines (b, n) between pictures (b, 3, 64, 64) in [0, 1] and texts; differentiable in the pictures."""
        seen = torch.cat([self.net.embed(part) for part in pictures.float().split(64)])
        said = self.embed(texts).float().cpu() - self.center
        return F.normalize(F.linear(seen, self.weight, self.bias), dim=1) @ F.normalize(said, dim=1).T
