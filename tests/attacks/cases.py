"""A small case for every family, and settings under which an attack takes a moment, from the attacks' test files."""

from functools import cache
from pathlib import Path

import torch

from tests import tiny
from tests.contract_settings import contract_settings
from unconcept.attacks import AttackAttempt, AttackCase
from unconcept.core import Concept, Request
from unconcept.core.hashing import hash_json, hash_tensors
from unconcept.edits import ApplicableEdit
from unconcept.methods.uce import UCE
from unconcept.models import Conditioning
from unconcept.models.diffusion.procedures.registry import SamplingProcedure, procedure_tensors, procedure_values
from unconcept.models.views import PipelineView

QUICK = contract_settings(Path(__file__).parent)


@cache
def shared(family: str):
    view = tiny.view(family, torch.float32)
    view.condition(["a"])  # transformers hangs hooks of its own the first time it is asked for hidden states
    return view, UCE().erase(view, Request(("dog",), ("cat",), ("fox",)))


def case(family: str, edited: bool = True, seed: int = 0) -> AttackCase:
    view, edit = shared(family)
    return case_of(view, edit if edited else None, seed)


def case_of(view: PipelineView, edit: ApplicableEdit | None, seed: int = 0) -> AttackCase:
    """Three prompts about a dog; one names it by an alias, one not at all."""
    rng = torch.Generator().manual_seed(1)

    def pictures(n):
        return torch.rand(n, 3, 16, 16, generator=rng)

    return AttackCase(
        model=view,
        edit=edit,
        concept=Concept("dog", aliases=("hound",)),
        prompts=("a dog in ink", "hound", "it barks"),
        noise=noise_of(view, rng),
        pictures=pictures(3),
        examples=pictures(4),
        wordings=("pooch",),
        unrelated=(("a fox", "a car", "sun"), pictures(3)),
        steps=2,
        guidance_scale=3.0,
        seed=seed,
    )


def noise_of(view: PipelineView, rng: torch.Generator) -> torch.Tensor:
    """Of three pictures; pictures of families with other latents stay those of the first families."""
    usual = torch.randn(3, 4, 8, 8, generator=rng)
    shape = view.latent_shape
    return usual if shape == (4, 8, 8) else torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))


def input_hash(attempt: AttackAttempt) -> tuple[object, ...]:
    """Everything an attempt gives, as something that can be compared."""
    found: list[object] = [attempt.steps, attempt.loss]
    for i, given in sorted(attempt.inputs.items()):
        kinds = [] if given.soft is None else [given.soft, *filter(None, [given.soft.t5])]
        tensors = {f"row{kind}.{e}": row for kind, soft in enumerate(kinds) for e, row in enumerate(soft.rows)}
        tensors |= {} if given.states is None else flat(given.states)
        tensors |= {} if given.noise is None else {"noise": given.noise}
        own = (i, given.text, hash_tensors(tensors), None if given.weights is None else given.weights.hash)
        found.append(own if given.sampling is None else (*own, *sampling_identity(given.sampling)))
    return tuple(found)


def sampling_identity(given: SamplingProcedure) -> tuple[object, ...]:
    return hash_json(procedure_values(given)), hash_tensors(procedure_tensors(given))


def flat(given: Conditioning) -> dict[str, torch.Tensor]:
    return {name: part for name, part in vars(given).items() if part is not None}
