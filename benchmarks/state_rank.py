"""How much room concepts have in the text encoder, for tables of many concepts."""

from functools import cache


@cache
def rank_sentence() -> str:
    """What the states of all objects fill, in words."""
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.worlds.table import concept_table
    from world.spread import effective_rank

    names = [entry.name for entry in concept_table().objects]
    states = EditedModel().base().embed(names, at="last_subject")
    rank, width = effective_rank(states), states.shape[1]
    return (
        f"The states of the {len(names)} objects of `moji` have an effective rank of {rank:.0f} in {width} dimensions."
    )
