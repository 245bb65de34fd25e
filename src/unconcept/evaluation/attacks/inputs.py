"""Saves, loads and draws the inputs that an attack found: texts, ids and tensors in a safetensors file."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...attacks import AttackInput
from ...core.errors import StoreError, require
from ...core.hashing import hash_json, hash_tensors
from ...core.output_folder import STORE_REMEDY, atomic_file
from ...core.regular_files import require_regular_file
from ...edits import Edit, open_edit
from ...models import Conditioning, ModelView
from ...models.checkpoint.safetensors_io import write_tensors
from ...models.diffusion import procedures as _known_procedures  # noqa: F401, registers every kind
from ...models.diffusion.procedures.registry import (
    SamplingRequest,
    join_procedures,
    procedure_tensors,
    procedure_texts,
    procedure_values,
    restore_procedure,
    shared_values,
)
from ...models.diffusion.procedures.sampling_change import SamplingChange
from ...models.model_view import SoftPrompts
from ...prompts.safety import require_drawable
from ..sampling import DrawSpec, initial_noise

_INPUTS_FORMAT = "unconcept-found"
PRIVATE_MODE = 0o600  # whoever has what an attack found has the concept


@dataclass(frozen=True)
class AdversarialInput:
    """The successful or last input that an attack found for one prompt, with the prompt's seed and guidance scale."""

    prompt: str
    seed: int
    input: AttackInput
    guidance_scale: float | None = None
    """What a published prompt set prescribes for the prompt; None: the run's."""


def input_tensors(given: AttackInput) -> dict[str, Tensor]:
    """The input's tensors by name, without the edit that it may apply to the model."""
    found: dict[str, Tensor] = {}
    if given.soft is not None:
        found |= _soft_tensors(given.soft, "soft")
    if given.states is not None:
        found |= {f"states.{name}": value for name, value in vars(given.states).items() if value is not None}
    if given.noise is not None:
        found["noise"] = given.noise
    if given.sampling is not None:
        found |= {f"sampling.{name}": tensor for name, tensor in procedure_tensors(given.sampling).items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _soft_tensors(soft: SoftPrompts, name: str) -> dict[str, Tensor]:
    own = {f"{name}.ids": soft.ids, f"{name}.at": soft.at}
    own |= {f"{name}.rows.{i}": rows for i, rows in enumerate(soft.rows)}
    return own if soft.t5 is None else own | _soft_tensors(soft.t5, f"{name}.t5")


def _soft_prompts(own: Mapping[str, Tensor], name: str) -> SoftPrompts | None:
    if f"{name}.ids" not in own:
        return None
    rows = tuple(own[key] for key in sorted(own) if key.startswith(f"{name}.rows."))
    return SoftPrompts(own[f"{name}.ids"], own[f"{name}.at"], rows, _soft_prompts(own, f"{name}.t5"))


def hash_input(given: AttackInput) -> str:
    """Hash of an input's content: all that its picture depends on besides model and seed."""
    tensors = {name: tensor.double() for name, tensor in input_tensors(given).items()}
    own = [given.text, hash_tensors(tensors), given.weights.hash if given.weights else None]
    return hash_json(own if given.sampling is None else [*own, procedure_values(given.sampling)])


def save_adversarial(path: Path, found: Mapping[int, AdversarialInput]) -> None:
    """Save the inputs of all prompts of an attack in one file, and each edit that they use beside it, once, as
    `.weights.safetensors`.
    """
    tensors = {
        f"{number}.{name}": tensor for number, one in found.items() for name, tensor in input_tensors(one.input).items()
    }
    edits = {one.input.weights.hash: one.input.weights for one in found.values() if one.input.weights is not None}
    rows = {
        str(number): {
            "prompt": one.prompt,
            "seed": one.seed,
            "text": one.input.text,
            "weights": one.input.weights.hash if one.input.weights else None,
            "sampling": None if one.input.sampling is None else procedure_values(one.input.sampling),
            **({} if one.guidance_scale is None else {"guidance_scale": one.guidance_scale}),
        }
        for number, one in found.items()
    }
    for name, edit in edits.items():
        with atomic_file(adversarial_weights_path(path, name), STORE_REMEDY) as part:
            edit.save(part)
    with atomic_file(path, STORE_REMEDY) as part:
        metadata = {"format": _INPUTS_FORMAT, "found": json.dumps(rows, sort_keys=True)}
        write_tensors(part, tensors or {"none": torch.zeros(1)}, metadata)


def adversarial_weights_path(path: Path, name: str) -> Path:
    """Path of an edit that belongs to a file of inputs."""
    return path.with_name(f"{path.stem}-{name[:16]}.weights.safetensors")


def load_adversarial(path: Path) -> dict[int, AdversarialInput]:
    """Load what `save_adversarial` wrote; `StoreError` for any other file."""
    require_regular_file(path, StoreError)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            require(
                header.get("format") == _INPUTS_FORMAT,
                f"{path} is not a file of an attack's inputs: give one that `unconcept attack` wrote",
                StoreError,
            )
            rows: dict[str, dict[str, Any]] = json.loads(header["found"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return {
            int(number): AdversarialInput(
                row["prompt"], row["seed"], _input(path, number, row, tensors), row.get("guidance_scale")
            )
            for number, row in rows.items()
        }
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: {error}; give an undamaged file that `unconcept attack` wrote") from None


def _input(path: Path, number: str, row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AttackInput:
    own = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.partition(".")[0] == number}
    soft = _soft_prompts(own, "soft")
    states = Conditioning(**_part(own, "states")) if "states.states" in own else None
    edit: Edit | None = open_edit(adversarial_weights_path(path, row["weights"])) if row["weights"] else None
    values = row.get("sampling")  # Older files have none.
    sampling = restore_procedure(values, _part(own, "sampling")) if values else None
    return AttackInput(row["text"], soft, states, own.get("noise"), edit, sampling)


def _part(own: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one part of an input by their names in it."""
    return {key.partition(".")[2]: tensor for key, tensor in own.items() if key.partition(".")[0] == name}


@torch.no_grad()
def sample_adversarial(model: ModelView, found: Sequence[AdversarialInput], spec: DrawSpec) -> Tensor:
    """Draw pictures (n, 3, h, w) with the model as it now computes, from the noise of each prompt's seed or the noise
    that the attack found. Raises `RequestError` for a prompt that is never drawn.
    """
    for one in found:
        further = procedure_texts(one.input.sampling) if one.input.sampling else ()
        require_drawable([one.input.text, *further], [one.prompt])
    alike: dict[str, list[int]] = {}
    for i, one in enumerate(found):
        alike.setdefault(_shared(one), []).append(i)
    drawn: dict[int, Tensor] = {}
    for members in alike.values():
        for part in (members[i : i + spec.batch_size] for i in range(0, len(members), spec.batch_size)):
            pictures = _sample_alike(model, [found[i] for i in part], spec)
            drawn |= dict(zip(part, pictures, strict=True))
    return torch.stack([drawn[i] for i in range(len(found))])


def _shared(one: AdversarialInput) -> str:
    """What inputs must share to be drawn at once."""
    given = one.input
    edit, values = (
        given.weights.hash if given.weights else None,
        shared_values(given.sampling) if given.sampling else None,
    )
    return json.dumps([edit, values, one.guidance_scale], sort_keys=True)


def _sample_alike(model: ModelView, found: Sequence[AdversarialInput], spec: DrawSpec) -> Tensor:
    """Draw pictures (n, 3, h, w) of inputs that share what `_shared` says."""
    inputs = [one.input for one in found]
    noise = torch.stack([_start(one, model.latent_shape) for one in found])
    over, rows = inputs[0].weights, [given.sampling for given in inputs if given.sampling]
    with over.applied(model) if over else nullcontext():
        scale = spec.guidance_scale if found[0].guidance_scale is None else found[0].guidance_scale
        asked = SamplingRequest(_condition(model, inputs), noise, spec.steps, scale, spec.sampler)
        return (join_procedures(rows) if rows else SamplingChange()).sample(model, asked)


def _start(one: AdversarialInput, shape: tuple[int, int, int]) -> Tensor:
    return initial_noise(one.seed, shape) if one.input.noise is None else one.input.noise


def copy_adversarial(source: Path, target: Path) -> None:
    """Copy a file of inputs with the edits beside it, readable by its owner alone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    copies = [(source, target)]
    for weights in source.parent.glob(f"{source.stem}-*.weights.safetensors"):
        copies.append((weights, target.with_name(weights.name.replace(source.stem, target.stem))))
    for old, new in copies:
        new.touch(PRIVATE_MODE)
        shutil.copyfile(old, new)


def _condition(model: ModelView, inputs: Sequence[AttackInput]) -> Conditioning:
    """Text states of inputs, one row each, from the model's encoders as they now are."""
    return Conditioning.concatenate([_condition_one(model, given) for given in inputs])


def _condition_one(model: ModelView, given: AttackInput) -> Conditioning:
    if given.states is not None:
        return given.states
    return model.condition([given.text] if given.soft is None else given.soft)
