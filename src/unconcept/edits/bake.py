"""Write an edit into a checkpoint: the changed tensors are overwritten, every other byte is copied."""

import shutil
from pathlib import Path

from torch import Tensor

from ..core.errors import EditError, require
from ..core.hashing import hash_tensors
from ..models.stream import patch, read, weight_files
from .base import Edit
from .weights import added


def bake(edit: Edit, source: Path, target: Path) -> None:
    """Copy the diffusers folder `source` into `target` with the edit in its weights."""
    parts = sorted({name.partition(".")[0] for name in edit.names})
    changed: dict[Path, dict[str, Tensor]] = {}
    before: dict[str, Tensor] = {}
    for part in parts:
        require((source / part).is_dir(), f"{source} has no {part}: the edit is for another family", EditError)
        files = weight_files(source / part)
        names = [name.partition(".")[2] for name in edit.names if name.startswith(f"{part}.")]
        missing = [name for name in names if name not in files]
        require(not missing, f"{source} has no {part}.{missing[0] if missing else ''}: the edit is for another family", EditError)
        weights = read(files, names)
        before |= {f"{part}.{name}": weight for name, weight in weights.items()}
        for name, weight in weights.items():
            changed.setdefault(files[name], {})[name] = added(weight, edit.delta(f"{part}.{name}", weight))
    found = hash_tensors(before)
    base = edit.origin.base_hash if edit.origin else found
    require(found == base, f"the edit was made for other weights ({base[:12]}) than {source} holds ({found[:12]})", EditError)
    shutil.copytree(source, target, dirs_exist_ok=True)
    for file, tensors in changed.items():
        patch(file, target / file.relative_to(source), tensors)
