"""For which family of models a file of another tool is, by its header and by its names."""

import re
from collections.abc import Iterable, Mapping

from ...core.errors import EditError, require
from ...models.checkpoint.config import family_of_folder
from ...models.families import FAMILIES, families
from .base_tensors import BaseTensors

_OTHER_FAMILIES = {  # families that are not supported, by names that only their files hold
    "Z-Image": re.compile(r"context_refiner|noise_refiner"),
    "Qwen-Image": re.compile(r"(txt|img)_mlp[._]net|(txt|img)_mod[._]1"),
    "Wan": re.compile(r"blocks[._]\d+[._](self_attn[._]|ffn[._]\d|cross_attn[._][qkvo]\b)"),
}
_UNKNOWN_NAMES = "it is for another family or size, or names its modules in a way that is not known"


def family_of_header(header: Mapping[str, str]) -> str | None:
    """The family that a header names: in our own fields, kohya's, or the `modelspec` standard's."""
    known = [families[name] for name in FAMILIES]
    base = header.get("ss_base_model_version", "").lower()
    kind = header.get("modelspec.architecture", "").lower().replace(".", "-").partition("/")[0]
    by_kohya = next((spec.name for spec in known if spec.kohya_base and base.startswith(spec.kohya_base)), None)
    by_standard = next((spec.name for spec in known if spec.modelspec and kind.startswith(spec.modelspec)), None)
    return header.get("unconcept.family") or by_kohya or by_standard


def require_same_family(header: Mapping[str, str], base: BaseTensors) -> None:
    """Raise `EditError` if the header names another family than the model's.

    Names and shapes are not enough: self-attentions of SD 1.x and 2.x have the same.
    """
    said, own = family_of_header(header), family_of_folder(base.source).name
    message = (
        f"its header says that it is for {said} models, {base.source.name} is {own}: it is for another family; give a"
        f" {said} model"
    )
    require(said in (None, own), message, EditError)


def family_hint(names: Iterable[str], header: Mapping[str, str], base: BaseTensors) -> str:
    """What the names of a file tell about its family, for a message about a name that the model lacks."""
    text, own = "\n".join(names), family_of_folder(base.source)
    told = [title for title, names in _OTHER_FAMILIES.items() if names.search(text)]
    if not told:
        known = {families[name].title: families[name].module_names for name in FAMILIES}
        told = [title for title, names in known.items() if names is not None and names.search(text)]
        if own.title in told:
            return _UNKNOWN_NAMES
    kind = header.get("modelspec.architecture") or " or ".join(told)
    return f"it is for another family ({kind}): give a model of that family" if told else _UNKNOWN_NAMES
