"""The two nodes: load an edit from ComfyUI's folder `models/unconcept`, and apply it at a strength."""

import os
from collections.abc import Mapping
from typing import Any

from .edit_file import SUFFIX, StoredEdit, edit_path, read_edit
from .patches import add_edit

FOLDER = "unconcept"
CATEGORY = "unconcept"


def _register_folder() -> Any:
    import folder_paths  # of ComfyUI

    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    return folder_paths


def _lora_keys(model: Any, clip: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    import comfy.lora

    of_clip = {} if clip is None else comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    return comfy.lora.model_lora_keys_unet(model.model, {}), of_clip


class LoadEdit:
    """Loads an edit file of unconcept."""

    RETURN_TYPES = ("UNCONCEPT_EDIT",)
    RETURN_NAMES = ("edit",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "Loads an edit.safetensors from models/unconcept."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = [name for name in _register_folder().get_filename_list(FOLDER) if name.endswith(SUFFIX)]
        return {"required": {"edit_name": (names,)}}

    def load(self, edit_name: str) -> tuple[StoredEdit]:
        return (read_edit(edit_path(_register_folder().get_folder_paths(FOLDER), edit_name)),)


class ApplyEdit:
    """Applies an edit to a model and, where it changes text encoders, to CLIP."""

    RETURN_TYPES = ("MODEL", "CLIP")
    FUNCTION = "apply"
    CATEGORY = CATEGORY
    DESCRIPTION = "Erases what the edit erases: 0 has no effect, 1 is the edit as made."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05}
        required = {"model": ("MODEL",), "edit": ("UNCONCEPT_EDIT",), "strength": ("FLOAT", strength)}
        return {"required": required, "optional": {"clip": ("CLIP",)}}

    def apply(self, model: Any, edit: StoredEdit, strength: float, clip: Any = None) -> tuple[Any, Any]:
        if strength == 0:
            return model, clip
        return add_edit(edit, model, clip, strength, _lora_keys)


NODE_CLASS_MAPPINGS: dict[str, type] = {"UnconceptLoadEdit": LoadEdit, "UnconceptApplyEdit": ApplyEdit}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "UnconceptLoadEdit": "Load edit (unconcept)",
    "UnconceptApplyEdit": "Apply edit (unconcept)",
}
