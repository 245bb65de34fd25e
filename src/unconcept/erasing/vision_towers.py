"""The vision towers beside a model's text encoders, for methods that see: `moji`'s own,
or CLIPs of the user's on disk.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..core.errors import SettingsError, require
from ..methods import VisionTextTower, VisionTextTowers
from ..models import ModelView
from ..models.loading import MOJI
from ..models.vision.paired_clip import open_paired_clip
from ..scorers.moji_clip import MojiClip


def open_vision_towers(model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
    """One a text encoder. `clips` are folders by part; `SettingsError` where one is missing, or named for `moji`."""
    if model.name == MOJI:
        named = next((folder for folder in clips.values() if folder), None)
        require(
            named is None, f"clip {named!r}: moji has a vision tower of its own, moji-clip; leave it out", SettingsError
        )
        return {"text_encoder": MojiClip(partial(model.embed, at="first_eot"))}
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
