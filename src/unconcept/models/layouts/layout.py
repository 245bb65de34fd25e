"""Maps every tensor of a diffusers folder to its place in the original layout, and back.

Single-file checkpoints, ComfyUI's networks and LoRAs for SDXL, SD3 and FLUX use the names of the original layout.
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
EMA_PREFIX = "model_ema."  # running mean of the denoiser in training, which some files also contain
_T5_TABLES = ("shared.weight", "encoder.embed_tokens.weight")  # the same table, twice in published files


@dataclass(frozen=True)
class ModelLayout:
    """The original layout of one model, which depends on its family and configs."""

    spec: FamilySpec
    levels: int
    """Number of levels of the VAE's decoder."""
    names: DenoiserNames
    """Original names of the denoiser's tensors."""

    @classmethod
    def of(cls, source: Path) -> "ModelLayout":
        """Make it from the configs of a diffusers folder or single file; `ModelError` if the family has none."""
        folder = config_folder(source)
        with_layout = [families[name].pipeline for name in families if families[name].denoiser_names]
        kind = str(read_config(folder / "model_index.json").get("_class_name"))
        message = (
            f"{folder} holds a {kind}, but the original layout is only known for"
            f" {', '.join(dict.fromkeys(with_layout))}: export --to diffusers or peft"
        )
        require(kind in with_layout, message, ModelError)
        spec = family_of_folder(folder)
        assert spec.denoiser_names is not None
        levels = len(read_config(folder / "vae" / "config.json").get("up_block_types", ()))
        try:
            return cls(spec, levels, spec.denoiser_names(read_config(folder / spec.denoiser / "config.json")))
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from None

    @property
    def denoiser(self) -> str:
        return self.spec.denoiser

    @property
    def written_parts(self) -> tuple[str, ...]:
        """The parts that an exported single file contains."""
        return (self.denoiser,) if self.spec.holds_denoiser_alone else self.parts

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that a single file may contain."""
        return (self.denoiser, "vae", *(encoder.part for encoder in self.spec.encoders))

    def prefix(self, part: str) -> str:
        """The prefix of a part's tensors in a single file."""
        if part == self.denoiser:
            return "" if self.spec.holds_denoiser_alone else DENOISER_PREFIX
        encoder = self.spec.encoder(part)
        return encoder.single_file if encoder else self.spec.vae_prefix

    def denoiser_tensor(self, name: str) -> tuple[str, Packing]:
        """The original name of a denoiser's tensor, and its place in that tensor."""
        found = self.names.original(name)
        if found is None:
            raise _unknown(f"{self.denoiser}.{name}")
        return found

    def in_single_file(self, name: str) -> tuple[str, Packing] | None:
        """The tensor of a single file that contains a tensor (full name, `unet.`...), and the place in it.

        None for position ids, which have no place in OpenCLIP's layout.
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
        """The inverse of `in_single_file` for denoiser and text encoders.

        Gives, for each tensor of a part, its name in the file and its place in that tensor.
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
    """Group tensors of a folder by the tensor of a single file that contains them, in their order in it.

    `ModelError` if one of those tensors lacks a part.
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
    return ModelError(f"{name} has no name in the original layout of its family: export --to diffusers")
