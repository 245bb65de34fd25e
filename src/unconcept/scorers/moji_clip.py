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

from ..core.hashing import hash_json, hash_tensors
from .moji_net import JudgeNet, embeddings, load_net
from .registry import Raw, scorer

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
        self.hash = hash_tensors({**self.net.state_dict(), "clip.weight": weight, "clip.bias": bias, "clip.center": center})

    def score(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines (b, n) between pictures (b, 3, 64, 64) in [0, 1] and texts; differentiable in the pictures."""
        seen = embeddings(self.net, pictures)
        said = self.embed(texts).float().cpu() - self.center
        return F.normalize(F.linear(seen, self.weight, self.bias), dim=1) @ F.normalize(said, dim=1).T


@scorer("moji-clip", reads="text")
class MojiClipScore:
    """How well a picture of `moji` agrees with a text and with each of a list of labels.

    `embed` as for `MojiClip`: call it outside of any edit that reaches the text encoder. Rows are as `clip-score`'s.
    """

    name = MojiClip.name
    version = MojiClip.version

    def __init__(self, embed: Embed, labels: Sequence[str] = (), path: Path | None = None) -> None:
        self.clip = MojiClip(embed, path)
        self.labels = tuple(labels)
        # Kept rows are found by the hash, and with labels they are other rows.
        self.hash = hash_json([self.clip.hash, self.labels]) if self.labels else self.clip.hash

    @torch.no_grad()
    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[Raw]:
        """Cosines in [-1, 1], 6 decimals: "asked" of each picture's own text, "labels" in their order."""
        texts = list(dict.fromkeys([*asked, *self.labels]))
        cosines = self.clip.score(pictures, texts).tolist()
        at = {text: i for i, text in enumerate(texts)}
        return [
            {"asked": round(row[at[text]], 6), "labels": [round(row[at[label]], 6) for label in self.labels]} for row, text in zip(cosines, asked, strict=True)
        ]
