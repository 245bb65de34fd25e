"""Where each tensor of a model stands, whether it is a diffusers folder or a single file."""

from pathlib import Path

from ...core.errors import ModelError, require
from ..layouts.layout import ModelLayout
from .config import config_folder
from .safetensors_io import TensorLocation, open_file
from .weight_files import tensor_files, weight_file, weight_variants


def has_part(source: Path, part: str) -> bool:
    """Whether a model has such a part: SD3 is also published without its T5."""
    return (config_folder(source) / part).is_dir()


def companion_folder(source: Path) -> list[str]:
    """Text encoders and VAE that a single file lacks, as FLUX's published one does, and that stand in the folder of its
    configs.
    """
    layout, folder = ModelLayout.of(source), config_folder(source)
    with open_file(source) as file:
        keys = list(file.keys())

    def is_lacking(part: str) -> bool:
        return not any(key.startswith(layout.prefix(part)) for key in keys)

    others = [part for part in layout.parts if part != layout.denoiser and weight_variants(folder / part)]
    return [part for part in others if is_lacking(part)]


def tensor_locations(source: Path, part: str) -> dict[str, TensorLocation]:
    """The tensors of one part of `source` by their names in a diffusers folder; `ModelError` if there are none."""
    if source.is_dir():
        return {name: TensorLocation(file, name) for name, file in tensor_files(weight_file(source, part)).items()}
    if part in companion_folder(source):
        return tensor_locations(config_folder(source), part)
    with open_file(source) as file:
        keys = list(file.keys())
    found = ModelLayout.of(source).in_folder(keys, part)
    message = (
        f"{source} holds no {part} in the original layout: it is of another family than {config_folder(source)} says,"
        " or a LoRA"
    )
    require(bool(found), message, ModelError)
    return {name: TensorLocation(source, *stands) for name, stands in found.items()}
