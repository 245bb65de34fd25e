"""The pages that are made for entries of the registries: one for each, and one that lists them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from unconcept.attacks import attacks
from unconcept.core.docstrings import field_descriptions
from unconcept.core.recipe import load_recipe, recipes
from unconcept.evaluation.suites.registry import suites
from unconcept.methods import methods
from unconcept.models.families import families
from unconcept.models.family import FamilySpec
from unconcept.protection import protections
from unconcept.scorers import scorers

Rows = Iterator[tuple[object, ...]]
Pages = dict[str, str]


def table(columns: tuple[str, ...], rows: Rows) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(map(_line, lines)) + "\n"


def _line(cells: tuple[object, ...]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def code(value: object) -> str:
    """A value as TOML or Python would be typed."""
    return f"`{value!r}`" if value is not None else "left open"


def setting_rows(kind: type) -> Rows:
    """Name, default and meaning of every setting."""
    meanings = field_descriptions(kind)
    for field in fields(kind):
        if field.init:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            shown = "none: it must be given" if default is MISSING else code(default)
            yield f"`{field.name}`", shown, meanings.get(field.name, "")


def links(folder: str, names: list[str]) -> str:
    """Links from a page one folder down to the pages of some entries."""
    return ", ".join(f"[{name}](../{folder}/{name}.md)" for name in names) or "none"


def recipes_of(key: str, name: str) -> list[str]:
    """Packaged recipes for a method, an attack or a family."""
    return [recipe for recipe in recipes() if getattr(load_recipe(recipe), key) == name]


def body(kind: type) -> str:
    """The docstring of a settings class, and that of the module in which it stands."""
    module = __import__(kind.__module__, fromlist=["_"])
    return "\n\n".join(text.strip() for text in (module.__doc__, kind.__doc__) if text)


def family_rows(info: Any) -> Rows:
    """Whether a method or an attack is defined for each family, and why not."""
    for family in families:
        if family in info.families:
            yield f"[{family}](../families/{family}.md)", "supported"
        else:
            reason = info.refusal(family) if hasattr(info, "refusal") else "it is not defined there"
            yield f"[{family}](../families/{family}.md)", f"refused: {reason}"


def common_sections(key: str, name: str, info: Any) -> tuple[str, str, str]:
    """Settings, families and recipes of a method or an attack."""
    return (
        "## Settings\n\n" + table(("setting", "default", "meaning"), setting_rows(info.settings)),
        "## Families\n\n" + table(("family", "support"), family_rows(info)),
        "## Recipes\n\n" + links("recipes", recipes_of(key, name)),
    )


def method_page(name: str) -> str:
    """What a method is, its settings, families and recipes."""
    info = methods[name]
    about = f"Paper: {info.paper}. Kind: {info.mechanism}. Task: {info.does}. Version {info.version}."
    return settings_page("method", name, info, about, f"erase CONCEPT --method {name}")


def attack_page(name: str) -> str:
    """What an attack is, how deep it reaches, its settings, families and recipes."""
    info = attacks[name]
    about = f"Source: {info.paper}. Access: {info.rung}. One search for each {info.scope}."
    return settings_page("attack", name, info, about, f"attack {name} CONCEPT --edit EDIT")


def protection_page(name: str) -> str:
    """What a protection or control does to a picture, and its settings."""
    info = protections[name]
    about = f"Source: {info.paper}. A {info.role}."
    return settings_page("protection", name, info, about, f"protect PICTURES --method {name}")


def settings_page(kind: str, name: str, info: Any, about: str, words: str) -> str:
    """The page of an entry with settings: what it is, where it is from, its command, then what all entries say."""
    command = f"```\nunconcept {words} --out DIR\n```"
    return "\n\n".join((f"# {name}", body(info.settings), about, command, *common_sections(kind, name, info)))


def suite_page(name: str) -> str:
    """What a suite asks, how much, and which attacks it runs."""
    suite = suites[name]
    names = list(attacks) if "*" in suite.attacks else list(suite.attacks)
    sizes = ((f"`{field.name}`", code(getattr(suite.sizes, field.name))) for field in fields(suite.sizes))
    return "\n\n".join(
        (
            f"# {name}",
            suite.summary[:1].upper() + suite.summary[1:] + ".",
            f"```\nunconcept evaluate CONCEPT --edit EDIT --suite {name} --out DIR\n```",
            "## Sizes\n\n" + table(("size", "value"), sizes),
            f"Drawn with the spec `{suite.spec}`." if suite.spec else "Drawn as the model is by default.",
            "## Attacks\n\n" + links("attacks", names),
        )
    )


def scorer_page(name: str) -> str:
    """What a scorer reads and needs."""
    info = scorers[name]
    extra = f"Needs the extra `{info.extra}`." if info.extra else "Needs no extra."
    return "\n\n".join((f"# {name}", f"{info.summary}", f"Reads: {info.reads}. {extra}"))


def recipe_page(name: str) -> str:
    """Where a recipe is from, and the file."""
    recipe = load_recipe(name)
    kind, _, owner = recipe.owner.partition(" ")
    text = recipes()[name].read_text(encoding="utf-8").strip()
    family = f" Family: [{recipe.family}](../families/{recipe.family}.md)." if recipe.family in families else ""
    return "\n\n".join(
        (
            f"# {name}",
            f"For [{owner}](../{kind}s/{owner}.md).{family} Source: {recipe.source}",
            f"`unconcept explain {name}` prints every effective setting, who gave it and what it means.",
            f"```toml\n{text}\n```",
        )
    )


def encoder_rows(spec: FamilySpec) -> Rows:
    """Text encoders in the order in which the denoiser reads them."""
    for encoder in spec.encoders:
        kinds = (("states", encoder.gives_states), ("pooled", encoder.gives_pooled))
        given = [what for what, is_given in kinds if is_given]
        yield f"`{encoder.part}`", encoder.kind, ", ".join(given)


def family_page(name: str) -> str:
    """Which methods and attacks are defined for a family, and its recipes."""
    spec = families[name]
    refused = ((f"[{m}](../methods/{m}.md)", methods[m].refusal(name)) for m in methods if methods[m].refusal(name))
    return "\n\n".join(
        (
            f"# {name}",
            f"{spec.title}: `{spec.pipeline}`, a {spec.denoiser} with {spec.attention} attention.",
            "## Text encoders\n\n" + table(("part", "kind", "gives"), encoder_rows(spec)),
            "## Methods\n\n" + links("methods", [m for m in methods if name in methods[m].families]),
            "### Refused\n\n" + table(("method", "because"), refused),
            "## Attacks\n\n" + links("attacks", [a for a in attacks if name in attacks[a].families]),
            "## Recipes\n\n" + links("recipes", recipes_of("family", name)),
        )
    )


ENTRIES: Mapping[str, tuple[Callable[[], list[str]], Callable[[str], str], Callable[[str], str]]] = {
    "methods": (lambda: list(methods), method_page, lambda name: methods[name].summary),
    "attacks": (lambda: list(attacks), attack_page, lambda name: attacks[name].summary),
    "protections": (lambda: list(protections), protection_page, lambda name: protections[name].summary),
    "suites": (lambda: list(suites), suite_page, lambda name: suites[name].summary),
    "scorers": (lambda: list(scorers), scorer_page, lambda name: scorers[name].summary),
    "families": (lambda: list(families), family_page, lambda name: families[name].title),
    "recipes": (lambda: list(recipes()), recipe_page, lambda name: load_recipe(name).source),
}


def entry_pages() -> Pages:
    """A page for each entry of each registry, and one that lists them."""
    pages = {}
    for folder, (names, page, summary) in ENTRIES.items():
        rows = ((f"[{name}]({name}.md)", summary(name)) for name in names())
        pages[f"{folder}/index.md"] = f"# {folder.capitalize()}\n\n" + table(("name", "what it is"), rows)
        pages |= {f"{folder}/{name}.md": page(name) + "\n" for name in names()}
    return pages
