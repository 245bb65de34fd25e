"""Train the tokenizer and the text encoder: `python -m world.text`.

The encoder learns which concepts and which style a caption names before any picture is drawn, and is frozen then (as
Stable Diffusion trains on a finished CLIP): at a subject's last token it must tell that concept, at every token after
the last subject all concepts named, from the style's last token on the style. So synonyms come together in its states.
"""

import argparse
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from unconcept.worlds.table import ConceptTable, concept_table

from .captions import Captions, Draw
from .loop import Plan, fit
from .render import CACHE

OUT = CACHE / "text"
LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: list[str], merges: int) -> CLIPTokenizer:
    """CLIP's byte-level BPE with word ends, trained on `texts`; start and end token come last, as in CLIP."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    words, letters = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    pairs = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    vocab = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, pairs), START, END]
    index = {piece: i for i, piece in enumerate(dict.fromkeys(vocab))}
    return CLIPTokenizer(vocab=index, merges=pairs, model_max_length=LENGTH, unk_token=END, pad_token=END)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Both forms: `tokenizer.json`, and the `vocab.json` and `merges.txt` that older libraries read."""
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=384,
            intermediate_size=512,
            projection_dim=384,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@dataclass(frozen=True)
class Labels:
    """What each token must tell: `concepts` (b, l, c) rows sum to 1 or 0, `slot` and `style` (b, l), -1 = not asked."""

    ids: Tensor
    concepts: Tensor
    slot: Tensor
    style: Tensor


def label(draws: list[Draw], tokenizer: CLIPTokenizer, concepts: dict[str, int], styles: dict[str, int]) -> Labels:
    """Token ids and per-token labels of a batch of captions."""
    coded = tokenizer([d.text for d in draws], padding="max_length", return_offsets_mapping=True)
    wanted = torch.zeros(len(draws), LENGTH, len(concepts))
    slot, style = torch.full((2, len(draws), LENGTH), -1)
    for row, draw in enumerate(draws):
        ends = [end for _, end in coded["offset_mapping"][row]]
        position = 0
        last = 0
        for number, (name, wording) in enumerate(zip(draw.names, draw.wordings, strict=True)):
            position = re.compile(rf"\b{wording}\b").search(draw.text, position).end()
            last = ends.index(position)
            wanted[row, last, concepts[name]] = 1
            slot[row, last] = number if len(draw.names) > 1 else 2
        for name in draw.names:
            wanted[row, last + 1 :, concepts[name]] = 1 / len(draw.names)
        style[row, last:] = len(styles)
        if draw.style_wording:
            said = draw.text.rindex(draw.style_wording + " style") + len(draw.style_wording)
            style[row, ends.index(said) :] = styles[draw.style]
    return Labels(torch.tensor(coded["input_ids"]), wanted, slot, style)


class Cosines(nn.Module):
    """A classifier by angle: it pushes concepts apart in all directions the width offers,
    not in just enough of them.
    """

    def __init__(self, width: int, classes: int, scale: float = 16.0) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(width))
        self.directions = nn.Parameter(torch.randn(classes, width))
        self.scale = scale

    def forward(self, states: Tensor) -> Tensor:
        return self.scale * F.normalize(states - self.center, dim=-1) @ F.normalize(self.directions, dim=-1).T


class Reader(nn.Module):
    """The text encoder with the heads it is trained by; the heads are thrown away afterwards."""

    def __init__(self, encoder: CLIPTextModel, concepts: int, styles: int) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.concept = Cosines(width, concepts)
        self.slot, self.style = nn.Linear(width, 3), nn.Linear(width, styles + 1)

    def loss(self, labels: Labels) -> Tensor:
        states = self.encoder(labels.ids).last_hidden_state
        asked = labels.concepts.sum(-1) > 0
        named = F.cross_entropy(self.concept(states[asked]), labels.concepts[asked])
        slot = F.cross_entropy(self.slot(states).flatten(0, 1), labels.slot.flatten(), ignore_index=-1)
        style = F.cross_entropy(self.style(states).flatten(0, 1), labels.style.flatten(), ignore_index=-1)
        return named + slot + style

    @torch.no_grad()
    def accuracy(self, labels: Labels) -> float:
        """Share of asked tokens whose first guess is a concept the caption names."""
        guess = self.concept(self.encoder(labels.ids).last_hidden_state).argmax(-1)
        right = labels.concepts.gather(-1, guess[..., None])[..., 0] > 0
        return float(right[labels.concepts.sum(-1) > 0].float().mean())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    known: ConceptTable = concept_table()
    captions = Captions(known)
    rng = random.Random(args.seed)
    tokenizer = train_tokenizer([captions.draw(rng).text for _ in range(20_000)], merges=1000)
    concepts = {e.name: i for i, e in enumerate(known.objects)}
    styles = {e.name: i for i, e in enumerate(known.styles)}

    def batch(generator: torch.Generator) -> Labels:
        draws = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return label([captions.draw(draws) for _ in range(args.batch_size)], tokenizer, concepts, styles)

    reader = Reader(build(tokenizer), len(concepts), len(styles))
    plan = Plan(args.steps, 1e-3, args.seed, ema=0.99)
    trained = fit(reader, lambda g: reader.loss(batch(g)), plan, CACHE / f"text-{args.seed}.checkpoint")
    assert isinstance(trained, Reader)
    trained.encoder.save_pretrained(OUT / "text_encoder")
    save_tokenizer(tokenizer, OUT / "tokenizer")
    print(f"accuracy {trained.accuracy(batch(torch.Generator().manual_seed(0))):.3f}, {len(tokenizer)} tokens -> {OUT}")


if __name__ == "__main__":
    main()
