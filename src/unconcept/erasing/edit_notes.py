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
    pooled, unreached = [encoder.part for encoder in spec.encoders if encoder.gives_pooled], methods[method].unreached
    if not pooled or (spec.pooled_map and unreached != "any pooled text"):
        return {}
    if unreached in ("pooled text", "any pooled text"):
        told = f"{spec.title} also reads the pooled text of {pooled[0]}, which {method} leaves as it is: it names the"
        return {"pooled text": f"{told} concept"}
    if unreached == "unconditional":
        told = f"{spec.title}'s pipeline takes zeros as the unconditional side, which no text names: {method} was"
        return {unreached: f"{told} trained with the encoded empty text in their place"}
    return {}
