"""A stand-in of ComfyUI's patchers, by what it documents of them."""

from functools import reduce
from types import SimpleNamespace

import torch


class Patcher:
    """What ComfyUI documents of a patcher of a model or of text encoders."""

    def __init__(
        self, state: dict[str, torch.Tensor], patches: dict | None = None, options: dict | None = None
    ) -> None:
        self.model = self.cond_stage_model = SimpleNamespace(state=state, state_dict=lambda: state)
        self.patches, self.model_options = dict(patches or {}), dict(options or {})
        self.object_patches: dict[str, object] = {}

    def clone(self) -> "Patcher":
        made = Patcher(self.model.state, self.patches, self.model_options)
        made.model, made.object_patches = self.model, dict(self.object_patches)
        return made

    def get_model_object(self, name: str) -> object:
        """What stands at a path in the model, as it is patched."""
        return self.object_patches.get(name) or reduce(getattr, name.split("."), self.model)

    def add_object_patch(self, name: str, made: object) -> None:
        self.object_patches[name] = made

    def add_patches(self, patches: dict, strength_patch: float = 1.0, strength_model: float = 1.0) -> list[str]:
        taken = []
        for place, patch in patches.items():
            key, offset = place if isinstance(place, tuple) else (place, None)
            if key in self.model.state:
                self.patches.setdefault(key, []).append((strength_patch, patch, offset))
                taken.append(place)
        return taken

    def set_model_unet_function_wrapper(self, wrapper) -> None:
        self.model_options["model_function_wrapper"] = wrapper

    def weight(self, key: str) -> torch.Tensor:
        found = self.model.state[key].clone()
        for strength, (kind, (delta,)), offset in self.patches.get(key, ()):
            assert kind == "diff"
            view = found if offset is None else found.narrow(*offset)
            assert view.shape == delta.shape
            view += strength * delta
        return found

    def predict(self, apply_model, states: torch.Tensor) -> torch.Tensor:
        given = {"input": torch.zeros(1), "timestep": torch.ones(1), "c": {"c_crossattn": states, "y": 1}}
        wrapper = self.model_options.get("model_function_wrapper")
        return (
            apply_model(given["input"], given["timestep"], **given["c"])
            if wrapper is None
            else wrapper(apply_model, given)
        )
