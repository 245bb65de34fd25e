"""The registry of model families: each file has one `FamilySpec` and is found by itself, without a list."""

from collections.abc import Callable, Sequence

from ...core.errors import SettingsError, require
from ...core.registry import Registry, import_entries
from ..family import Config, Family, FamilySpec

families: Registry[FamilySpec] = Registry("family")
for _file in import_entries(__name__):
    for _value in vars(_file).values():
        if isinstance(_value, FamilySpec):
            families.register(_value.name)(_value)

FAMILIES: tuple[Family, ...] = tuple(families)
PIPELINES: tuple[str, ...] = tuple(dict.fromkeys(families[name].pipeline for name in families))  # of diffusers


def family_of_pipeline(pipeline: str, config: Callable[[str], Config]) -> FamilySpec:
    """The family of a supported pipeline class; `config` returns the config of a part."""
    known = [families[name] for name in families if families[name].pipeline == pipeline]
    if len(known) == 1:
        return known[0]
    return next(spec for spec in known if spec.is_member(config(spec.denoiser), config(spec.encoders[0].part)))


def undefined_for(name: str, family: str, defined: Sequence[Family]) -> str:
    """The message that something is not defined for a family, and for which families it is."""
    return f"{name} is not defined for {family} models, only for {', '.join(defined)}"


def require_families(names: Sequence[Family], of: str) -> None:
    """Raise `SettingsError` if a name is not a family's."""
    unknown = [name for name in names if name not in FAMILIES]
    require(not unknown, f"{of}: unknown family {unknown[:1]}; known are {', '.join(FAMILIES)}", SettingsError)
