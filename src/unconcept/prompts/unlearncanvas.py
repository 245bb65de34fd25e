"""UnlearnCanvas (NeurIPS 2024, arXiv:2402.11846): its grid of styles and objects as a prompt set.

Every model draws the whole grid, 51 themes x 20 objects x 5 seeds = 5,100 pictures; the judge answers two questions
about each picture, its object and its style.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..core.errors import DataError, require
from .checks import Check, GroupSizes, JudgedAspect, Prompt, first_of_each_group, seeded_prompt
from .sets import PromptGroup, PromptItem, PromptSet

_STYLES = """
    Abstractionism Artist_Sketch Blossom_Season Bricks Byzantine Cartoon Cold_Warm Color_Fantasy Comic_Etch
    Crayon Cubism Dadaism Dapple Defoliation Early_Autumn Expressionism Fauvism French Glowing_Sunset
    Gorgeous_Love Greenfield Impressionism Ink_Art Joy Liquid_Dreams Magic_Cube Meta_Physics Meteor_Shower Monet
    Mosaic Neon_Lines On_Fire Pastel Pencil_Drawing Picasso Pop_Art Red_Blue_Ink Rust Sketch Sponge_Dabbed
    Structuralism Superstring Surrealism Ukiyoe Van_Gogh Vibrant_Flow Warm_Love Warm_Smear Watercolor Winter
"""
UNLEARNCANVAS_STYLES = tuple(_STYLES.split())
UNLEARNCANVAS_THEMES = (*UNLEARNCANVAS_STYLES, "Seed_Images")  # photographs: measured, but never erased
_OBJECTS = """
    Architectures Bears Birds Butterfly Cats Dogs Fishes Flame Flowers Frogs Horses Human Jellyfish Rabbits
    Sandwiches Sea Statues Towers Trees Waterfalls
"""
UNLEARNCANVAS_OBJECTS = tuple(_OBJECTS.split())
UNLEARNCANVAS_SEEDS = (188, 288, 588, 688, 888)
# The concepts held out while others are unlearned one by one (arXiv:2511.07970).
_KEPT_STYLES = """
    Blossom_Season Rust Crayon Fauvism Superstring Red_Blue_Ink Gorgeous_Love French Joy Greenfield
    Expressionism Impressionism
"""
UNLEARNCANVAS_RETAINED_STYLES = tuple(_KEPT_STYLES.split())
UNLEARNCANVAS_RETAINED_OBJECTS = ("Architectures", "Butterfly", "Flame", "Flowers", "Horses", "Human", "Sea", "Trees")
UNLEARNCANVAS_GUIDANCE = 9.0  # used for most methods in the paper's table; two used 7.5
UNLEARNCANVAS_TEMPLATE = "A {object} image in {style} style."


def unlearncanvas_set(
    target: str,
    themes: Sequence[str] = UNLEARNCANVAS_THEMES,
    objects: Sequence[str] = UNLEARNCANVAS_OBJECTS,
    seeds: Sequence[int] = UNLEARNCANVAS_SEEDS,
) -> PromptSet:
    """Make the prompt set of the grid for a model that erased `target`.

    Questions about the target are direct, about other themes style, about other objects far. Concepts keep the
    underscores of their names; prompts have spaces instead.
    """
    known = [name for name in (*themes, *objects) if name != "Seed_Images"]
    require(
        target in known,
        f"{target!r} is not a target of UnlearnCanvas: give one of its {len(known)} styles and objects, such as"
        f" {known[0]}",
        DataError,
    )
    return PromptSet(f"unlearncanvas {target}", 1, tuple(_questions(target, themes, objects, seeds)))


def _questions(
    target: str, themes: Sequence[str], objects: Sequence[str], seeds: Sequence[int]
) -> Iterator[PromptItem]:
    for theme in themes:
        for thing in objects:
            text = UNLEARNCANVAS_TEMPLATE.format(object=thing.replace("_", " "), style=theme.replace("_", " "))
            asked: tuple[tuple[str, PromptGroup], ...] = ((theme, "style"), (thing, "far"))
            for seed in seeds:
                for concept, group in asked:
                    yield PromptItem(
                        text, concept, "direct" if concept == target else group, seed, UNLEARNCANVAS_GUIDANCE
                    )


def _answers(names: Sequence[str], typed: Mapping[str, str]) -> tuple[str, ...]:
    """The labels of a judge: names with spaces for underscores, or as the user typed them."""
    plain = [name.replace("_", " ") for name in names]
    return tuple(typed.get(name, name) for name in plain)


def grid_checks(items: Iterable[PromptItem], sizes: GroupSizes, concepts: Sequence[str]) -> list[Check]:
    """Make checks from UnlearnCanvas' items; the judge chooses among its themes, or among its objects.

    Underscores become spaces, except in `concepts`, which stay as the user typed them.
    """
    typed = {name.replace("_", " "): name for name in concepts}
    themes, objects = _answers(UNLEARNCANVAS_THEMES, typed), _answers(UNLEARNCANVAS_OBJECTS, typed)
    made = []
    for item in first_of_each_group(items, sizes):
        plain = item.concept.replace("_", " ")
        name, is_theme = typed.get(plain, plain), item.concept in UNLEARNCANVAS_THEMES
        by: JudgedAspect = "style" if is_theme else "object"
        seed = seeded_prompt(item.text, item.replicate).seed if item.seed is None else item.seed
        made.append(
            Check(
                Prompt(item.text, seed, item.guidance_scale),
                item.group,
                name,
                by,
                (name,),
                themes if is_theme else objects,
            )
        )
    return made
