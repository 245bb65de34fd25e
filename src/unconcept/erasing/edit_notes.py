"""Says what an edit cannot reach in a model of its family, for reports and `explain`."""

from ..edits import Edit, origin_of
from ..methods import methods
from ..models import ModelView
from ..models.family import FamilySpec


def edit_notes(edit: Edit, model: ModelView) -> dict[str, str]:
    """The notes on an edit by their subject, one line each; empty if the edit reaches all that its method means to."""
    method = origin_of(edit).method
    return method_notes(method, model.spec) if method in methods else {}


def method_notes(method: str, spec: FamilySpec) -> dict[str, str]:
    """The notes on every edit that a method makes of a model of this family."""
    encoder = _unreached_pooled_encoder(spec)
    if encoder is None:
        return {}
    title, unreached = spec.title, methods[method].unreached
    if unreached == "pooled text":
        told = f"{title} also reads the pooled text of {encoder}, which {method} leaves as it is: it names the concept"
        return {unreached: told}
    if unreached == "unconditional":
        told = (
            f"{title}'s pipeline takes zeros as the unconditional side, which no text names: {method} was trained with"
        )
        return {unreached: f"{told} the encoded empty text in their place"}
    return {}


def _unreached_pooled_encoder(spec: FamilySpec) -> str | None:
    """The encoder whose pooled text the denoiser reads through no map of its own; None if there is none."""
    pooled = [encoder.part for encoder in spec.encoders if encoder.gives_pooled]
    return pooled[0] if pooled and not spec.pooled_map else None
