"""Finds CLIPs in the local Hugging Face cache; nothing is downloaded."""

import json
from pathlib import Path


def cached_clips() -> list[str]:
    """The Hub ids of the CLIPs that transformers can open, by name; empty without a cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = []
    for config in sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*/config.json")):
        try:
            is_clip = json.loads(config.read_text(encoding="utf-8")).get("model_type") == "clip"
        except (OSError, ValueError, AttributeError):  # An unreadable or foreign file is no offer.
            continue
        if is_clip and any(config.parent.glob("*.safetensors")):
            found.append(config.parents[2].name.removeprefix("models--").replace("--", "/", 1))
    return list(dict.fromkeys(found))
