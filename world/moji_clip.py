"""moji-clip: a judge's embedding of a picture beside the text encoder's state of a caption."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from unconcept.models.vision.judge_net import JudgeLabels, JudgeNet

from .composition import compose
from .judge_pictures import Exam, augment
from .loop import Plan, fit
from .place import Place, generator


class Projection(nn.Module):
    """moji-clip: the judge's embedding read in the space of the text encoder's end-of-text state."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, text_width)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def similarity(self, embedding: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosines (b, n)."""
        return self.scale.exp() * F.normalize(self.projection(embedding), dim=1) @ F.normalize(texts, dim=1).T


@torch.no_grad()
def end_states(place: Place, texts: list[str]) -> Tensor:
    """The text encoder's end-of-text state of each text."""
    tokenizer = CLIPTokenizer.from_pretrained(place.state / "text" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(place.state / "text" / "text_encoder", dtype=torch.float32)
    encoder = encoder.to(place.device).eval()
    out = []
    for start in range(0, len(texts), 256):
        coded = tokenizer(texts[start : start + 256], padding="max_length")
        ends = torch.tensor(coded["attention_mask"]).sum(1) - 1
        states = encoder(torch.tensor(coded["input_ids"], device=place.device)).last_hidden_state
        out.append(states[torch.arange(len(ends)), ends])
    return torch.cat(out)


def clip_plan(plan: Plan) -> Plan:
    """moji-clip's: at most 600 steps, or a fifth of a judge's minutes."""
    budget = None if plan.budget is None else plan.budget / 5
    return Plan(min(600, plan.steps), 2e-3, 5, ema=0.99, budget=budget, world=plan.world)


def fit_clip(
    net: JudgeNet, e: Exam, words: JudgeLabels, plan: Plan, checkpoint: Path
) -> tuple[dict[str, Tensor], float]:
    """Contrast each augmented scene with all captions; weights, and zero-shot accuracy of single objects."""
    place = e.place
    states = end_states(place, [scene.caption.text for scene in e.drawn])
    plain = end_states(place, [f"a {label}" for label in words.objects])
    center = plain.mean(0)
    module = Projection(net.heads.embedding.out_features, len(center)).to(place.device)

    def embedded(size: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        pick = torch.randint(len(e.scenes), (size,), generator=g).to(place.device)
        with torch.no_grad():
            return net.embed(augment(compose(e.pixels, e.scenes.rows(pick)), "A", g)), pick

    def loss(g: torch.Generator, step: int) -> Tensor:
        embedding, pick = embedded(256, g)
        logits = module.similarity(embedding, states[pick] - center)
        wanted = torch.arange(len(pick), device=place.device)
        return F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)

    trained = fit(module, loss, plan, checkpoint).average
    assert isinstance(trained, Projection)
    with torch.no_grad():
        embedding, pick = embedded(2400, generator(98))
        guess = trained.similarity(embedding, plain - center).argmax(1).tolist()
    shown = [e.drawn[i].sprites for i in pick.tolist()]
    single = [words.objects[g] == s[0].label for g, s in zip(guess, shown, strict=True) if len(s) == 1]
    weights = {f"clip.{name}": tensor for name, tensor in trained.state_dict().items()} | {"clip.center": center}
    return weights, sum(single) / len(single)
