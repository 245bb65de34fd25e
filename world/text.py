"""Train a tokenizer and a text encoder: `python -m world.text`, and `--kind t5` for the flow model's second one.

The encoder learns what a caption says before any picture is drawn, and is frozen then (as Stable Diffusion trains on
a finished CLIP): at a subject's last token it must tell that concept, at every token after the last subject all
concepts named, and the style, background, count, size and place said so far. So synonyms come together in its states.
Names that the world never draws are taught too, and the states of names are spread until they fill SPREAD directions.
"""

import argparse
import random
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from unconcept.worlds.scenes import one_phrase, scene_words
from unconcept.worlds.table import concept_table

from .artwork import load
from .captions import Captions
from .left_out import LeftOut
from .lessons import NOT_ASKED, Facts, Labels, Lesson, draw_lesson, label_tokens
from .loop import Plan, fit
from .place import Place, add_place, place_of, world_hash
from .scenes import RUNGS
from .spread import object_ranks, spectrum_entropy
from .tokenizer import LENGTH, save_clip_tokenizer, train_clip_tokenizer, train_t5_tokenizer
from .vocabulary import Vocabulary, vocabulary

SPREAD = 190.0  # effective rank of SAMPLE names that is enough
SAMPLE = 256
SEEDS = {"clip": 2, "t5": 12}
T5_WIDTH = 256

Kind = Literal["clip", "t5"]
Encoder = CLIPTextModel | T5EncoderModel


def build_clip(tokenizer: PreTrainedTokenizerBase) -> CLIPTextModel:
    """The first encoder, causal."""
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


def build_t5(tokenizer: PreTrainedTokenizerBase) -> T5EncoderModel:
    """The flow model's second encoder; it reads both ways, and padding too, as FLUX hands it over unmasked."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=32,
            d_ff=512,
            num_heads=8,
            num_layers=3,
            relative_attention_max_distance=LENGTH,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


class Cosines(nn.Module):
    """A classifier by angle: it pushes concepts apart in all directions that the width offers."""

    def __init__(self, width: int, classes: int, scale: float = 16.0) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(width))
        self.directions = nn.Parameter(torch.randn(classes, width))
        self.scale = scale

    def forward(self, states: Tensor) -> Tensor:
        return self.scale * F.normalize(states - self.center, dim=-1) @ F.normalize(self.directions, dim=-1).T


class Reader(nn.Module):
    """The text encoder with the heads it is trained by; the heads are thrown away afterwards."""

    def __init__(self, encoder: Encoder, classes: int, facts: Facts) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.concept = Cosines(width, classes)
        self.heads = nn.ModuleDict({fact: nn.Linear(width, len(values)) for fact, values in facts.values.items()})

    def loss(self, labels: Labels, names: Tensor, last: Tensor) -> Tensor:
        """What tokens must tell, and how far the last tokens of names fall short of filling SPREAD directions."""
        states = self.encoder(labels.ids).last_hidden_state
        asked = labels.concepts.sum(-1) > 0
        total = F.cross_entropy(self.concept(states[asked]), labels.concepts[asked])
        for fact, head in self.heads.items():
            wanted = labels.facts[fact].flatten()
            total = total + F.cross_entropy(head(states).flatten(0, 1), wanted, ignore_index=NOT_ASKED)
        read = self.encoder(names).last_hidden_state[torch.arange(len(names), device=names.device), last]
        short = torch.tensor(SPREAD).log() - spectrum_entropy(read.float())
        return total + 2 * short.clamp_min(0)

    @torch.no_grad()
    def accuracy(self, labels: Labels) -> dict[str, float]:
        """Share of asked tokens whose first guess is right: a concept that the caption names, a fact that it says."""
        states = self.encoder(labels.ids).last_hidden_state
        guess = self.concept(states).argmax(-1)
        right = labels.concepts.gather(-1, guess[..., None])[..., 0] > 0
        out = {"concept": float(right[labels.concepts.sum(-1) > 0].float().mean())}
        for fact, head in self.heads.items():
            wanted = labels.facts[fact]
            asked = wanted != NOT_ASKED
            out[fact] = float((head(states).argmax(-1) == wanted)[asked].float().mean())
        return out


class Names:
    """One wording of each class, with and without an article, as token ids; those left out are never drawn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: Vocabulary, objects: int, left_out: LeftOut) -> None:
        phrases = words.phrases()
        barred = [name in left_out.names or left_out.is_named(phrase) for name, phrase in words.named_phrases()]
        self.is_allowed = ~torch.tensor(barred)
        coded = tokenizer([*phrases, *(one_phrase(phrase) for phrase in phrases)], padding=True)
        self.ids = torch.tensor(coded["input_ids"])
        self.last = torch.tensor(coded["attention_mask"]).sum(1) - 2
        self.objects, self.classes = objects, len(phrases)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """SAMPLE of them, half from the table, all in one form."""
        half = SAMPLE // 2
        own = self._first(torch.randperm(self.objects, generator=generator), half)
        other = self._first(self.objects + torch.randperm(self.classes - self.objects, generator=generator), half)
        form = int(torch.randint(2, (), generator=generator))
        pick = torch.cat([own, other]) + form * self.classes
        return self.ids[pick], self.last[pick]

    def _first(self, order: Tensor, count: int) -> Tensor:
        """The first classes of an order; each that is left out gives its place to the next one behind them."""
        first, spare = order[:count].clone(), order[count:][self.is_allowed[order[count:]]]
        barred = ~self.is_allowed[first]
        first[barred] = spare[: int(barred.sum())]
        return first


class Lessons:
    """Captions of every rung and of the wider vocabulary: an encoder is taught once for all rungs.

    A text that names or means a concept in `without` is replaced at its place, and all others are as if none were.
    """

    def __init__(self, words: Vocabulary, without: frozenset[str] = frozenset()) -> None:
        self.words, self.left_out = words, LeftOut.of(concept_table(), scene_words(), without)
        self.captions = [Captions(concept_table(), scene_words(), rung) for rung in RUNGS]
        self.facts = Facts.of(concept_table(), scene_words())

    def texts(self, size: int, seed: int) -> list[str]:
        """What tokenizers are trained on."""
        rng, drawn = random.Random(seed), list[str]()
        for place in range(size):
            text, instead = rng.choice(self.captions).draw(rng).text, random.Random(f"{seed}/{place}")
            while self.left_out.is_named(text):
                text = instead.choice(self.captions).draw(instead).text
            drawn.append(text)
        return [*drawn, *[word for word in self.words.meanings if not self.left_out.is_named(word)] * 2]

    def draw(self, tokenizer: PreTrainedTokenizerBase, size: int, g: torch.Generator) -> Labels:
        """A labelled batch."""
        lessons = self.lessons(int(torch.randint(2**62, (), generator=g)), size)
        return label_tokens(lessons, tokenizer, self.words.numbers, self.facts)

    def lessons(self, seed: int, size: int) -> list[Lesson]:
        """The lessons of a seed."""
        rng, found = random.Random(seed), list[Lesson]()
        for place in range(size):
            lesson = self.left_out.allowed(self._lesson(rng))
            instead = random.Random(f"{seed}/{place}")
            while lesson is None:
                lesson = self.left_out.allowed(self._lesson(instead))
            found.append(lesson)
        return found

    def _lesson(self, rng: random.Random) -> Lesson:
        return draw_lesson(rng.choice(self.captions), self.words, rng)


def train(
    place: Place, plan: Plan, batch_size: int, kind: Kind = "clip", without: frozenset[str] = frozenset()
) -> bool:
    """Train tokenizer and encoder, write them into the state folder, print what the encoder tells and how far it
    spreads.

    Whether the plan is complete.
    """
    torch.manual_seed(plan.seed)
    artwork = load(place.data)
    plan = plan.on(world_hash(artwork), without)
    lessons = Lessons(vocabulary(concept_table(), artwork.words), without)
    texts = lessons.texts(20_000, plan.seed)
    folder, checkpoint = place.state / "text", place.state / f"text-{kind}.checkpoint"
    first = kind == "clip"
    tokenizer: PreTrainedTokenizerBase
    if first and checkpoint.exists():  # CLIP's trainer breaks ties at random, and what goes on needs the same ids.
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    elif first:
        tokenizer = train_clip_tokenizer(texts)
        save_clip_tokenizer(tokenizer, folder / "tokenizer")
    else:
        tokenizer = train_t5_tokenizer(texts)
    names = Names(tokenizer, lessons.words, len(concept_table().objects), lessons.left_out)
    encoder = build_clip(tokenizer) if kind == "clip" else build_t5(tokenizer)
    reader = Reader(encoder, len(lessons.words.classes), lessons.facts).to(place.device)

    def loss(g: torch.Generator, step: int) -> Tensor:
        ids, last = names.draw(g)
        labels = lessons.draw(tokenizer, batch_size, g).to(place.device)
        return reader.loss(labels, ids.to(place.device), last.to(place.device))

    fitted = fit(reader, loss, plan, checkpoint)
    trained = fitted.average
    assert isinstance(trained, Reader)
    trained.encoder.save_pretrained(folder / ("text_encoder" if first else "text_encoder_2"))
    if not first:
        tokenizer.save_pretrained(folder / "tokenizer_2")
    asked = lessons.draw(tokenizer, 512, torch.Generator().manual_seed(0)).to(place.device)
    told = ", ".join(f"{name} {share:.3f}" for name, share in trained.accuracy(asked).items())
    print(f"{kind}, step {fitted.step}: {told}; {len(tokenizer)} tokens", flush=True)
    for form, rank in object_ranks(tokenizer, trained.encoder).items():
        print(f"{kind}, effective rank of objects, {form!r}: {rank:.1f}", flush=True)
    return fitted.is_complete


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=SEEDS, default="clip")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    add_place(parser)
    args = parser.parse_args(argv)
    plan = Plan(args.steps, args.lr, SEEDS[args.kind], ema=0.99, minutes=args.minutes)
    train(place_of(args), plan, args.batch_size, args.kind)


if __name__ == "__main__":
    main()
