"""A method of one's own: a frozen dataclass with one verb, which every command, metric and attack then takes."""

from dataclasses import dataclass

import unconcept
from unconcept.edits import DenseEdit
from unconcept.methods import NO_SERVICES, method


@method("half-map", paper="none", families=("sd1",), mechanism="closed-form")
@dataclass(frozen=True)
class HalfMap:
    """Moves the reading of the first target halfway to its anchor."""

    def erase(self, model, request, services=NO_SERVICES):
        """W' = W + W (a - t) t^T / (2 |t|^2)."""
        target, anchor = model.embed([request.targets[0], request.anchors[0]])
        step = (anchor - target)[:, None] * target / (2 * target.square().sum())
        return DenseEdit({name: weight.detach().to(step) @ step for name, weight in model.text_maps().items()})


if __name__ == "__main__":
    outcome = unconcept.erase("dog face", method="half-map", report=False, out="out/half")
    print(f"residual: {outcome.edit.origin.report['residual of dog face']:.3g}")
