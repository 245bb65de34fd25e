"""moji-clip: scores how well a `moji` image and a text agree, by projecting a judge's embedding to text space.

The projection was trained contrastively against a frozen copy of `moji`'s own text encoder, on artwork alone. What
grades uses the first judge's, what methods look through the third's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from ..core.hashing import hash_json, hash_tensors
from ..models.vision.judge_net import JudgeNet, image_embeddings, load_judge_net
from ..worlds.registry import JUDGE_WEIGHTS
from .registry import RawScore, scorer

_TextEmbedder = Callable[[Sequence[str]], Tensor]  # texts to end-of-text states (n, d) of the *unedited* text encoder


class MojiClip:
    """A CLIP of `moji`: its two towers are `embed_images` and `embed_texts`.

    `embed` is the unedited model's `view.embed(texts, at="first_eot")`. `embed_texts` is differentiable in the
    parameters of `embed`.
    """

    name = "moji-clip"
    version = 2

    def __init__(self, embed: _TextEmbedder, path: Path | None = None) -> None:
        path = path or JUDGE_WEIGHTS
        self.embed = embed
        self.net: JudgeNet = load_judge_net(path)[0]
        with safe_open(path, "pt") as file:
            weight, bias, center = (
                file.get_tensor(f"clip.{n}").float() for n in ("projection.weight", "projection.bias", "center")
            )
            self.scale = float(file.get_tensor("clip.scale").float().exp())  # of cosines in its training
        self.weight, self.bias, self.center = weight, bias, center
        self.hash = hash_tensors(
            {**self.net.state_dict(), "clip.weight": weight, "clip.bias": bias, "clip.center": center}
        )

    @property
    def vision(self) -> JudgeNet:
        """The network that sees."""
        return self.net

    def score(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosines (b, n) between images (b, 3, 64, 64) in [0, 1] and texts; differentiable in the images."""
        return self.embed_images(pictures) @ self.embed_texts(texts).T

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Embed images as rows (b, d) of unit length."""
        return F.normalize(F.linear(image_embeddings(self.net, pictures), self.weight, self.bias), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as rows (n, d) of unit length."""
        return F.normalize(self.embed(texts).float().cpu() - self.center, dim=1)


@scorer("moji-clip", reads="text", text_encoder_of="moji")
class MojiClipScore:
    """Scores how well a `moji` image agrees with a text and with each of a list of labels.

    `embed` is that of `MojiClip`: score outside of any edit that changes the text encoder. Rows are those of
    `clip-score`.
    """

    name = MojiClip.name
    version = MojiClip.version

    def __init__(self, embed: _TextEmbedder, labels: Sequence[str] = (), path: Path | None = None) -> None:
        self.clip = MojiClip(embed, path)
        self.labels = tuple(labels)
        # Stored rows are looked up by this hash, and rows with labels differ.
        self.hash = hash_json([self.clip.hash, self.labels]) if self.labels else self.clip.hash

    @torch.no_grad()
    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return cosines in [-1, 1], 6 decimals: "asked" for the image's text, "labels" for each label in order."""
        texts = list(dict.fromkeys([*asked, *self.labels]))
        cosines = self.clip.score(pictures, texts).tolist()
        column = {text: i for i, text in enumerate(texts)}
        rows = []
        for row, text in zip(cosines, asked, strict=True):
            labels = [round(row[column[label]], 6) for label in self.labels]
            rows.append({"asked": round(row[column[text]], 6), "labels": labels})
        return rows
