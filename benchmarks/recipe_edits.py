"""The edit that erases one concept of an embedded world under a method's recipe."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unconcept.edits import Edit
    from unconcept.evaluation.tasks.edit_task import Variant
    from unconcept.models import ModelView


def recipe_edit(view: "ModelView", variant: "Variant", concept: str, world: str) -> "Edit":
    """Erase the concept from a model of the world, on the table's request."""
    from unconcept.core.request import RequestSpec
    from unconcept.erasing.make_edit import make_edit
    from unconcept.evaluation.worlds import world_of
    from unconcept.methods import MethodServices

    known = world_of(world)
    chosen = known.request(RequestSpec((concept,)))
    settings = variant.settings_for(chosen.request.kind)
    return make_edit(view, chosen, variant.method, settings, MethodServices(vision_towers=known.vision_towers))
