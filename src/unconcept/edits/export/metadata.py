"""What stands in the header of every exported file: where the edit came from and how it was written."""

import json
from importlib.metadata import version
from pathlib import Path

import torch

from ...core.versions import library_versions
from ...models.checkpoint.fingerprint import read_licence
from ..base import Edit, origin_of

# By these A1111 and Forge tell for which models they offer a LoRA; a header without them is taken for SD 1.x.
_KOHYA_METADATA = {
    "sd1": {"ss_base_model_version": "sd_v1", "ss_v2": "False"},
    "sd2": {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
    "sdxl": {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"},
}


def export_metadata(edit: Edit, source: Path, to: str, dtype: torch.dtype | None, error: float = 0.0) -> dict[str, str]:
    """Flat texts, as safetensors wants them; `error` is how far a LoRA is from the edit.

    The licence is what the source says now; where it says nothing, what it said when the edit was made.
    """
    origin = origin_of(edit)
    told: dict[str, object] = {
        **{"version": version("unconcept"), "libraries": library_versions()},
        **{
            "export": to,
            "dtype": str(dtype).removeprefix("torch.") if dtype else "the base's own",
            "relative_error": error,
        },
        **{
            "base": origin.base,
            "base_hash": origin.base_hash,
            "family": origin.family,
            "licence": read_licence(source) or origin.licence or None,
        },
        **{"method": origin.method, "settings": dict(origin.settings), "kind": origin.kind},
        **{"targets": list(origin.targets), "anchors": list(origin.anchors), "retain": list(origin.retain)},
        **{"edit_hash": edit.hash, "report": dict(origin.report)},
    }
    known = {f"unconcept.{name}": value for name, value in told.items() if value is not None}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        for name, value in known.items()
    }
    return {"format": "pt", **texts, **(_KOHYA_METADATA.get(origin.family, {}) if to == "kohya" else {})}
