"""Scenes with finished latents and text states, drawn and encoded once, used a few times, then drawn anew."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .artwork import Artwork
from .captions import Captions
from .composition import SceneBatch, batch_of, compose, joined
from .place import Place, rank
from .scenes import scene_at

CHUNK = 256  # scenes encoded at once
PART = 500  # scenes that a worker draws at once

Read = Callable[[list[str]], tuple[Tensor, ...]]  # captions to what the model reads of them, each (n, ...)


@dataclass(frozen=True)
class Pool:
    """`latents` (n, c, h, w) and `texts` (n, ...) as float16 on the device; `empty` is what is read of no caption."""

    latents: Tensor
    texts: tuple[Tensor, ...]
    empty: tuple[Tensor, ...]


def drawn_part(
    captions: Captions, index: dict[tuple[str, str], int], seed: int, start: int
) -> tuple[list[str], SceneBatch]:
    """Captions and tensors of PART scenes of a list from a place on."""
    scenes = [scene_at(captions, seed, start + i) for i in range(PART)]
    return [scene.caption.text for scene in scenes], batch_of(index, scenes)


@cache
def executor(workers: int) -> ProcessPoolExecutor:
    """The processes that draw, for all trainings of this one. Spawned: a fork of a process that uses a GPU may hang."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


class Drawer:
    """Draws the scenes of pools, beside the training where the place has workers."""

    def __init__(self, captions: Captions, index: dict[tuple[str, str], int], size: int, workers: int) -> None:
        self.captions, self.index, self.starts = captions, index, range(0, size, PART)
        self.executor = executor(workers) if workers else None
        self.waiting: dict[int, list[Future[tuple[list[str], SceneBatch]]]] = {}

    def begin(self, seed: int) -> None:
        """Let the workers draw a list that will be asked for."""
        if self.executor is not None and seed not in self.waiting:
            jobs = [self.executor.submit(drawn_part, self.captions, self.index, seed, start) for start in self.starts]
            self.waiting[seed] = jobs

    def scenes(self, seed: int) -> tuple[list[str], SceneBatch]:
        """Captions and tensors of a list of scenes."""
        self.begin(seed)
        if seed in self.waiting:
            parts = [job.result() for job in self.waiting.pop(seed)]
        else:
            parts = [drawn_part(self.captions, self.index, seed, start) for start in self.starts]
        return [text for texts, _ in parts for text in texts], joined([batch for _, batch in parts])


@dataclass(frozen=True)
class Supply:
    """Scenes of a batch, scenes of a pool, and how often each scene of a pool is trained on, on average."""

    batch: int
    pool: int
    uses: int = 6


@dataclass
class Pools:
    """The pool of each step: a new one after each scene was used `uses` times on average. A resumed run finds the same
    ones.
    """

    captions: Captions
    artwork: Artwork
    vae: AutoencoderKL
    read: Read
    supply: Supply
    seed: int
    place: Place
    current: tuple[int, Pool] | None = None

    def __post_init__(self) -> None:
        self.size = -(-self.supply.pool // PART) * PART
        self.drawer = Drawer(self.captions, self.artwork.index, self.size, self.place.workers)
        self.pixels = self.artwork.pixels.to(self.place.device)

    def at(self, step: int) -> Pool:
        """The pool that this step draws from."""
        number = step * self.supply.batch // (self.size * self.supply.uses)
        if self.current is None or self.current[0] != number:
            self.current = None  # Frees the old one first.
            self.current = number, self._make(number)
        return self.current[1]

    def _seed(self, number: int) -> int:
        return (self.seed * 1000 + rank()) * 1000 + number

    def _make(self, number: int) -> Pool:
        texts, batch = self.drawer.scenes(self._seed(number))
        self.drawer.begin(self._seed(number + 1))
        batch = batch.to(self.place.device)
        latents, states = [], []
        for rows in torch.arange(self.size).split(CHUNK):
            x = compose(self.pixels, batch.rows(rows.to(self.place.device)))
            latents.append(encode(self.vae, x, self.place).half())
            read = self.read([texts[i] for i in rows.tolist()])
            states.append(tuple(part.half() for part in read))
        together = tuple(torch.cat(parts) for parts in zip(*states, strict=True))
        return Pool(torch.cat(latents), together, tuple(part.half() for part in self.read([""])))


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, place: Place) -> Tensor:
    """Latents of pictures (n, 3, 64, 64) in [0, 1]."""
    with place.autocast():
        return vae.encode(2 * pictures - 1).latent_dist.mean.float()


def sample(pool: Pool, size: int, empty: float, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Latents and texts in float32 of `size` scenes; a share of the captions is left empty."""
    device = pool.latents.device
    pick = torch.randint(len(pool.latents), (size,), generator=generator).to(device)
    blank = (torch.rand(size, generator=generator) < empty).to(device)
    texts = []
    for states, none in zip(pool.texts, pool.empty, strict=True):
        chosen = states[pick].float()
        chosen[blank] = none.float()
        texts.append(chosen)
    return pool.latents[pick].float(), tuple(texts)


def load_vae(folder: Path, place: Place) -> AutoencoderKL:
    """A finished autoencoder, frozen."""
    vae = AutoencoderKL.from_pretrained(folder, dtype=torch.float32)
    return vae.to(place.device).requires_grad_(False).eval()


def load_clip(folder: Path, place: Place) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """A finished tokenizer and text encoder, frozen."""
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), encoder.to(place.device).requires_grad_(False).eval()


def padded_ids(tokenizer: CLIPTokenizer, texts: Sequence[str], device: str) -> Tensor:
    """Token ids (n, length), as the pipelines pad them."""
    coded = tokenizer(list(texts), padding="max_length", truncation=True)
    return torch.tensor(coded["input_ids"], device=device)
