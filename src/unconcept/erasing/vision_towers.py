"""The vision towers beside a model's text encoders, for methods that see: an embedded model's own, or CLIPs of the
user's on disk.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..core.errors import SettingsError, require
from ..methods import VisionTextTower, VisionTextTowers
from ..models import ModelView
from ..models.vision.paired_clip import open_paired_clip
from ..scorers.moji_clip import MojiClip
from ..worlds.registry import EmbeddedWorld, embedded_world


def open_vision_towers(model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
    """One a text encoder; `clips` are folders by part."""
    world = embedded_world(model.name)
    return named_vision_towers(model, clips) if world is None else own_vision_towers(world, model, clips)


def own_vision_towers(world: EmbeddedWorld, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
    """Those of an embedded model; `SettingsError` if a folder was named for it."""
    named = next((folder for folder in clips.values() if folder), None)
    message = f"clip {named!r}: {world.name} has a vision tower of its own, {world.clip}; leave it out"
    require(named is None, message, SettingsError)
    return {"text_encoder": MojiClip(partial(model.embed, at="first_eot"))}


def named_vision_towers(model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
    """Those of the CLIPs that the user named; `SettingsError` where one is missing."""
    found: dict[str, VisionTextTower] = {}
    for part in model.spec.clip_encoders:
        setting = part.replace("text_encoder", "clip")
        folder = clips.get(part, "")
        message = (
            f"{model.name} has no vision tower beside its {part}: name the whole CLIP that it is of, --set"
            f" {setting}=FOLDER"
        )
        require(bool(folder), message, SettingsError)
        found[part] = open_paired_clip(Path(folder), model, part)
    return found
