"""What a model of few steps allows: which timesteps, which step between them, and which guidance.

Such a model (LCM, SDXL-Turbo, SDXL-Lightning, SiD, FLUX schnell) was distilled for a few timesteps and knows no others.
Its record is a file `few_step.json` beside its `model_index.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ...core.errors import ModelError, require
from ...core.regular_files import require_regular_file

FEW_STEP_FILE = "few_step.json"
_TIMESTEP_TOLERANCE = 0.5  # a flow's timesteps are no whole numbers


@dataclass(frozen=True)
class FewStepRecord:
    """The contract of a model of few steps."""

    timesteps: Mapping[int, tuple[float, ...]]
    """The legal timesteps, falling, by number of steps: {"1": [625], "2": [625, 312]}."""
    step: Literal["renoise", "integrate"]
    """Whether a step noises the predicted clean latents anew, or is one of the model's own scheduler."""
    guidance: Literal["none", "embedded", "classifier-free"]
    """How predictions may be guided."""
    teacher: str = ""
    """The model of many steps that it was distilled from: a name or a path; "" if the record does not say."""

    def __post_init__(self) -> None:
        fits = all(len(t) == n and sorted(t, reverse=True) == list(t) for n, t in self.timesteps.items())
        message = f"timesteps {dict(self.timesteps)}: give as many falling timesteps as each number of steps says"
        require(bool(self.timesteps) and fits, message, ModelError)

    def legal_timesteps(self, model: str, steps: int, sampler: str | None) -> tuple[float, ...]:
        """The timesteps of so many steps; `SettingsError` if the record forbids the number or the sampler."""
        message = f"sampler {sampler!r}: {model} has few steps, and its record allows its own alone: leave it out"
        require(sampler is None, message)
        allowed = ", ".join(map(str, sorted(self.timesteps)))
        require(steps in self.timesteps, f"{steps} sampler steps: the record of {model} allows {allowed}")
        return self.timesteps[steps]

    def require_timesteps(self, model: str, timesteps: Tensor) -> None:
        """Raise `ModelError` if a scheduler's timesteps are not the record's."""
        legal = torch.tensor(self.timesteps[len(timesteps)], dtype=torch.float64)
        near = bool(((timesteps.double().cpu() - legal).abs() <= _TIMESTEP_TOLERANCE).all())
        message = f"{model}: its scheduler's timesteps {timesteps.tolist()} are not its record's {legal.tolist()}"
        require(near, f"{message}: give it the scheduler's config that it was distilled with", ModelError)

    def require_guidance(self, model: str, scale: float) -> None:
        """Raise `SettingsError` for a guidance scale that the record forbids."""
        is_free = self.guidance != "none" or scale <= 1
        require(is_free, f"guidance scale {scale:g}: {model} takes no guidance, says its record: give 1")


def few_step_record(folder: Path) -> FewStepRecord | None:
    """The record in a model's folder; None without one; `ModelError` for one that cannot be read."""
    path = folder / FEW_STEP_FILE
    require_regular_file(path, ModelError)
    if not path.is_file():
        return None
    try:
        return TypeAdapter(FewStepRecord).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise ModelError(f"{path}: its {place} is wrong: {first['msg']}; give timesteps, step and guidance") from None
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; give a readable file") from None
