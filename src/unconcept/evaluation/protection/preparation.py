"""Trains what a protection needs once for all pictures of a model, and keeps it in the store."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...core.errors import StoreError
from ...core.hashing import hash_json
from ...core.output_folder import STORE_REMEDY, atomic_file
from ...core.seeds import picture_seeds
from ...core.settings import settings_data
from ...core.source import source_hash
from ...models.checkpoint.safetensors_io import write_tensors
from ...prompts.captions import load_captions
from ...protection import PreparationCase, PreparedProtection, Protection
from ...training.images.training_images import generate_images, take_in_turn
from ...training.perturbation.budget import ChangeBudget
from ..sampling import spec_for
from ..tasks.edited_model import EditedModel

_CAPTIONS = "everyday"  # of the pictures by the model on which a protection is trained
_FOLDER = "protections"  # in the store


def preparation_path(
    given: Protection, subject: EditedModel, budget: ChangeBudget, text: str, seed: int, store: Path
) -> Path | None:
    """Where the training of a protection is kept, by all that it depends on; None if it trains nothing."""
    if not isinstance(given, PreparedProtection) or not given.training_pictures:
        return None
    about = {
        "model": subject.key,
        "settings": settings_data(given),
        "budget": budget.record,
        "text": text,
        "seed": seed,
        "source": source_hash(type(given).__module__, __name__),
    }
    return store / _FOLDER / f"{hash_json(about)[:40]}.safetensors"


def prepare(
    given: Protection, subject: EditedModel, budget: ChangeBudget, text: str, seed: int, store: Path
) -> Mapping[str, Tensor] | None:
    """Return what a protection trains once for all pictures of a model: kept, or trained now and kept.

    It is trained on pictures by the model itself under everyday captions. None if it trains nothing.
    """
    path = preparation_path(given, subject, budget, text, seed, store)
    if path is None:
        return None
    if path.exists():
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{path}: {error}; delete it, and it is trained anew") from None
    assert isinstance(given, PreparedProtection)
    model, spec, count = subject.base(), spec_for(subject.model), given.training_pictures
    texts = take_in_turn([load_captions(_CAPTIONS)], count)
    seeds = picture_seeds(seed, count)
    pictures = generate_images(model, texts, seeds, spec.steps, spec.guidance_scale, spec.sampler)
    tensors = given.prepare(PreparationCase(model, pictures, budget, text, seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, STORE_REMEDY) as part:
        write_tensors(part, dict(tensors), {"format": "unconcept-protection"})
    return tensors
