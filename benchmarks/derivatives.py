"""What `unconcept recheck` says of derivatives of `moji`: `python -m benchmarks.derivatives`.

UCE erases a concept from `moji`. Derivatives are fine-tunes of the whole denoiser on the model's own pictures, of other
concepts and of the concept itself, a copy with the edit in its weights, and a merge. `recheck` reads all of them; its
table is printed for docs/derived.md.
"""

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.speed import show
from unconcept.core.request import RequestSpec
from unconcept.edits import Edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.jobs.command_options import RecheckOptions
from unconcept.jobs.derivatives.recheck import recheck
from unconcept.jobs.edit_base import record_base
from unconcept.models import ModelView, find_model, open_model
from unconcept.training.images.picture_tuning import PictureTuning
from unconcept.training.images.training_images import generate_images, images_to_latents

MODEL, CONCEPT, FILE = "moji", "dog face", "unet/diffusion_pytorch_model.safetensors"
OTHERS = ("an owl", "a pizza", "a red car", "a bicycle", "a flower", "a cat face", "a house", "a fish")
LEARNING_RATE, BATCH = 1e-4, 4  # ten times the usual rate of a fine-tune of all weights


def tuned(model: ModelView, captions: Sequence[str], steps: int) -> dict[str, Tensor]:
    """What a fine-tune of the whole denoiser on the model's own pictures adds to each weight."""
    latents = images_to_latents(model, generate_images(model, captions, range(len(captions)), 20, 4.0))
    tuning = PictureTuning("full", LEARNING_RATE, batch_size=BATCH)
    ((_, change, _),) = tuning.run(model, captions, latents, [steps])
    return deltas(change, model)


def deltas(edit: Edit, model: ModelView) -> dict[str, Tensor]:
    return {name: edit.delta(name, weight) for name, weight in model.reference(edit.names).items()}


def write(place: Path, *changes: tuple[float, Mapping[str, Tensor]]) -> None:
    """A copy of the model with shares of changes in its weights."""
    shutil.copytree(find_model(MODEL), place)
    weights = load_file(place / FILE)
    for share, change in changes:
        for name, delta in change.items():
            weights[name.removeprefix("unet.")] += share * delta.to(weights[name.removeprefix("unet.")])
    save_file(weights, place / FILE, {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--place", type=Path, default=Path("out/derivatives"), help="made for this")
    parser.add_argument("--steps", type=int, default=60, help="of each fine-tune")
    words = parser.parse_args()
    words.place.mkdir(parents=True)
    model = open_model(MODEL, "cpu", "float32")
    edit = make_edit(model, resolve_request(RequestSpec((CONCEPT,)), MODEL), "uce", {})
    edit.save(words.place / "edit.safetensors")
    record_base(words.place, MODEL)
    torch.manual_seed(0)
    own, other = deltas(edit, model), tuned(model, OTHERS, words.steps)
    again = tuned(model, (f"a {CONCEPT}",) * len(OTHERS), words.steps)
    derivatives: dict[str, Callable[[Path], None]] = {
        "fine-tune on other concepts": lambda place: write(place, (1, other)),
        "fine-tune on the concept": lambda place: write(place, (1, again)),
        "the edit in its weights": lambda place: write(place, (1, own)),
        "merge of half the edit and half a fine-tune": lambda place: write(place, (0.5, own), (0.5, other)),
    }
    for name, make in derivatives.items():
        make(words.place / "all" / name)
    found = recheck(RecheckOptions(edit=words.place / "edit.safetensors", folder=words.place / "all"))
    show([("derivative", "concept", "as it is", "with the edit", "own base", "drift", "verdict"), ("---",) * 7])
    for check in found.checks:
        figures = (check.as_it_is, check.residual, check.own_residual, check.drift)
        told = ("" if each is None else f"{each:.4f}" for each in figures)
        show([(Path(check.model).name, check.concept, *told, check.verdict)])


if __name__ == "__main__":
    main()
