"""Where every tensor of a diffusers folder stands in the original layout, and what stands in a file of that layout.

Single-file checkpoints, ComfyUI's networks and LoRAs for SDXL, SD3 and FLUX go by these names.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import ModelError, require
from ..checkpoint.config import config_folder, family_of_folder, read_config
from ..families import families
from ..family import DenoiserNames, FamilySpec
from .clip import folder_encoder_tensors, original_encoder_tensor
from .packing import Packing, require_all_members
from .vae import original_vae_module

DENOISER_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema."  # training's running mean of the denoiser, kept beside it in some files
_T5_TABLES = ("shared.weight", "encoder.embed_tokens.weight")  # one table, which published files hold twice


@dataclass(frozen=True)
class ModelLayout:
    """What the original names of a model depend on."""

    spec: FamilySpec
    levels: int
    """Of the VAE's decoder."""
    names: DenoiserNames
    """Of the denoiser's tensors."""

    @classmethod
    def of(cls, source: Path) -> "ModelLayout":
        """From the configs of a diffusers folder or of a single file; `ModelError` if its family has no such layout."""
        folder = config_folder(source)
        with_layout = [families[name].pipeline for name in families if families[name].denoiser_names]
        kind = str(read_config(folder / "model_index.json").get("_class_name"))
        message = (
            f"{folder} holds a {kind}: the original layout is known for {', '.join(dict.fromkeys(with_layout))};"
            " export --to diffusers or peft"
        )
        require(kind in with_layout, message, ModelError)
        spec = family_of_folder(folder)
        assert spec.denoiser_names is not None
        levels = len(read_config(folder / "vae" / "config.json")["up_block_types"])
        try:
            return cls(spec, levels, spec.denoiser_names(read_config(folder / spec.denoiser / "config.json")))
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from None

    @property
    def denoiser(self) -> str:
        return self.spec.denoiser

    @property
    def parts(self) -> tuple[str, ...]:
        """What a single file holds."""
        return (self.denoiser, "vae", *(encoder.part for encoder in self.spec.encoders))

    def prefix(self, part: str) -> str:
        """What the names of a part begin with in a single file."""
        if part == self.denoiser:
            return DENOISER_PREFIX
        encoder = self.spec.encoder(part)
        return encoder.single_file if encoder else self.spec.vae_prefix

    def denoiser_tensor(self, name: str) -> tuple[str, Packing]:
        """Where a tensor of the denoiser stands in the original network."""
        found = self.names.original(name)
        if found is None:
            raise _unknown(f"{self.denoiser}.{name}")
        return found

    def in_single_file(self, name: str) -> tuple[str, Packing] | None:
        """Which tensor of a single file holds a tensor, by its full name (`unet.`...), and where in it; None if it has
        no place there.
        """
        part, _, rest = name.partition(".")
        encoder = self.spec.encoder(part)
        if part == self.denoiser:
            found: tuple[str, Packing] | None = self.denoiser_tensor(rest)
        elif part == "vae":
            module, _, kind = rest.rpartition(".")
            original = original_vae_module(module, self.levels)
            found = None if original is None else (f"{original}.{kind}", Packing())
        elif encoder is not None:
            if encoder.naming == "open_clip" and rest.endswith("position_ids"):
                return None
            found = original_encoder_tensor(rest, encoder.naming)
        else:
            found = None
        if found is None:
            raise _unknown(name)
        return f"{self.prefix(part)}{found[0]}", found[1]

    def in_folder(self, keys: Iterable[str], part: str) -> dict[str, tuple[str, Packing]]:
        """The inverse for denoiser and text encoders: of a part's tensors, the name in the file and where in it each
        stands.
        """
        found: dict[str, tuple[str, Packing]] = {}
        for key in keys:
            for name, packing in self._of_part(key, part):
                found[name] = key, packing
        return found

    def _of_part(self, key: str, part: str) -> Iterator[tuple[str, Packing]]:
        encoder = self.spec.encoder(part)
        if part == self.denoiser:
            # FLUX's published file leaves the prefix out.
            if key.startswith(DENOISER_PREFIX) or self.denoiser == "transformer":
                yield from self.names.in_folder(key.removeprefix(DENOISER_PREFIX))
        elif encoder is not None and key.startswith(encoder.single_file):
            yield from folder_encoder_tensors(key.removeprefix(encoder.single_file), encoder.naming)


def group_by_packed_tensor(names: Iterable[str], layout: ModelLayout) -> dict[str, dict[str, Packing]]:
    """Each tensor of a single file with the tensors of the folder it is made of, in the order they stand in it;
    `ModelError` if one lacks a part.
    """
    found: dict[str, dict[str, Packing]] = {}
    for name in names:
        stands = layout.in_single_file(name)
        if stands is not None:
            found.setdefault(stands[0], {})[name] = stands[1]
    for encoder in layout.spec.encoders:
        shared, table = (f"{encoder.single_file}{name}" for name in _T5_TABLES)
        if encoder.naming == "t5" and shared in found:
            found.setdefault(table, found[shared])
    for original, members in found.items():
        require_all_members(original, members)
    return {
        original: dict(sorted(members.items(), key=lambda member: member[1].rows))
        for original, members in found.items()
    }


def _unknown(name: str) -> ModelError:
    return ModelError(f"{name} has no name in the original layout of its family; export --to diffusers")
