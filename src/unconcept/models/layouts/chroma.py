"""Original names of Chroma's transformer: FLUX's without modulation, which one network gives to all blocks."""

from ..family import Config
from .mmdit import FLUX_DOUBLE_BLOCK, FLUX_SINGLE_BLOCK, TransformerNames, whole_modules, without_modulation

_OUTER_MODULES = {
    **{"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear"},
    **{f"distilled_guidance_layer.{name}_proj": f"distilled_guidance_layer.{name}_proj" for name in ("in", "out")},
}


def chroma_names(config: Config) -> TransformerNames:
    """Chroma's names, with as many layers of its approximator as the config says."""
    names = dict(_OUTER_MODULES)
    for number in range(config["approximator_layers"]):
        layer, norm = (f"distilled_guidance_layer.{part}.{number}" for part in ("layers", "norms"))
        names |= {norm: norm, f"{layer}.linear_1": f"{layer}.in_layer", f"{layer}.linear_2": f"{layer}.out_layer"}
    blocks = {
        "transformer_blocks": ("double_blocks", without_modulation(FLUX_DOUBLE_BLOCK)),
        "single_transformer_blocks": ("single_blocks", without_modulation(FLUX_SINGLE_BLOCK)),
    }
    return TransformerNames(whole_modules(names), blocks, {})
