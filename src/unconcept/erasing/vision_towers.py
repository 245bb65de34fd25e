"""Opens the vision towers that belong to a model's text encoders, for methods that need images.

An embedded model has its own; for any other model the user names CLIP folders on disk.
"""

from collections.abc import Mapping
from functools import partial

from ..core.errors import SettingsError, require
from ..methods import VisionTextTower, VisionTextTowers
from ..models import ModelView
from ..models.loading import find_network
from ..models.vision.paired_clip import open_paired_clip
from ..scorers.moji_clip import MojiClip
from ..worlds.registry import METHOD_JUDGE_WEIGHTS, EmbeddedWorld, embedded_world


def open_vision_towers(model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
    """Open one vision tower for each text encoder; `clips` maps an encoder's name to a folder."""
    world = embedded_world(model.name)
    return named_vision_towers(model, clips) if world is None else own_vision_towers(world, model, clips)


def own_vision_towers(world: EmbeddedWorld, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
    """The vision tower of an embedded model; `SettingsError` if a folder was named for it."""
    named = next((folder for folder in clips.values() if folder), None)
    message = f"clip {named!r}: {world.name} has its own vision tower, {world.clip}; leave the setting out"
    require(named is None, message, SettingsError)
    return {"text_encoder": MojiClip(partial(model.embed, at="first_eot"), METHOD_JUDGE_WEIGHTS)}


def named_vision_towers(model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
    """The vision towers of the CLIP folders that the user named; `SettingsError` if one is missing."""
    found: dict[str, VisionTextTower] = {}
    for part in model.spec.clip_encoders:
        setting = part.replace("text_encoder", "clip")
        folder = clips.get(part, "")
        message = (
            f"{model.name} has no vision tower for its {part}: name the folder of the whole CLIP that this encoder"
            f" comes from, --set {setting}=FOLDER"
        )
        require(bool(folder), message, SettingsError)
        found[part] = open_paired_clip(find_network(folder), model, part)
    return found
