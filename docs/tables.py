"""`docs/reference.md` and `docs/systems.md`, made from the registries: `python docs/tables.py`.

A test says when they have to be made again.
"""

import ast
import re
import tomllib
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from unconcept.attacks import attacks
from unconcept.core.recipe import load_recipe, recipes
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.trials.filters import FILTERS
from unconcept.jobs import command_options
from unconcept.jobs.proofs import proof_of
from unconcept.methods import methods
from unconcept.models.diffusion.overshoot import OVERSHOOT_SAMPLERS
from unconcept.models.diffusion.schedulers import SAMPLERS
from unconcept.models.families import families
from unconcept.protection import protections
from unconcept.scorers import scorers
from unconcept.worlds.registry import worlds

ROOT = Path(__file__).parent.parent
REFERENCE, SYSTEMS = ROOT / "docs/reference.md", ROOT / "docs/systems.md"
METHODS = ROOT / "src/unconcept/methods"
RESULTS = {
    "results": "results.md",
    "continual": "continual.md",
    "attacks": "attacks.md",
    "attacks, `moji` 1": "attacks-moji-1.md",
    "protection": "protection.md",
}
REGISTRIES = {
    "method": methods,
    "attack": attacks,
    "protection": protections,
    "suite": suites,
    "scorer": scorers,
    "world": worlds,
}
SYSTEMS_HEAD = """# Systems of the literature

Each system that this project carries, with what it promises and what of it is here. Made from `docs/systems.toml` and
the registries by `python docs/tables.py`: *whole* when everything promised is here and a table has a row of it,
*unmeasured* when none has, *part* when something is missing, else *absent*. Rows of
`moji` 1 count too, where a page still shows them.

"""


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def training_parts(path: Path) -> list[str]:
    """What a method's file takes from the training engine: classes and functions, by its imports."""
    parts = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("training"):
            parts += [alias.name for alias in node.names]
    return sorted(parts)


def own_methods() -> list[str]:
    """Methods of this package, without those of plug-ins."""
    return sorted(name for name in methods if methods[name].settings.__module__.startswith("unconcept."))


def method_rows() -> list[tuple[str, ...]]:
    """A row for each method."""
    rows = []
    for name in own_methods():
        info = methods[name]
        rows.append((f"`{name}`", info.summary, info.paper, info.mechanism, ", ".join(info.families)))
    return rows


def part_rows() -> list[tuple[str, ...]]:
    """A row for each method that trains."""
    rows = []
    for name in own_methods():
        module = methods[name].settings.__module__.rpartition(".")[2]
        parts = training_parts(METHODS / f"{module}.py")
        if parts:
            rows.append((f"`{name}`", ", ".join(f"`{part}`" for part in parts)))
    return rows


def attack_rows() -> list[tuple[str, ...]]:
    """A row for each attack."""
    rows = []
    for name in sorted(attacks):
        info = attacks[name]
        rows.append((f"`{name}`", info.summary, info.paper, info.rung, ", ".join(info.families)))
    return rows


PROOFS_HEAD = """\
*drawn*: with settings chosen on judged pictures of an embedded model: of `moji` for `sd1`, of `moji-flow` for `flux`.
*untuned*: it draws there, with settings that nobody chose on pictures. *toy*: equations, names of tensors and files are
tested on the family's real classes at toy size; whether pictures of the published model lose the concept is not.
Empty: the method refuses the family. `unconcept methods` prints the same.

"""
PROOFS = {"drawn": "drawn", "untuned": "untuned", "algebra": "toy"}


def proof_rows() -> list[tuple[str, ...]]:
    """A row for each method: how far it is proven on each family."""
    rows = []
    for name in own_methods():
        info = methods[name]
        proofs = [PROOFS[proof_of(name, one).split()[0]] if one in info.families else "" for one in families]
        rows.append((f"`{name}`", *proofs))
    return rows


def protection_rows() -> list[tuple[str, ...]]:
    """A row for each protection of pictures, and for each control."""
    rows = []
    for name in sorted(protections):
        info = protections[name]
        rows.append((f"`{name}`", info.summary, info.paper, info.role))
    return rows


def reference() -> str:
    """The page."""
    suite_rows = [(f"`{name}`", suites[name].summary) for name in sorted(suites)]
    scorer_rows = [(f"`{name}`", scorers[name].summary, scorers[name].extra or "") for name in sorted(scorers)]
    filter_rows = [(f"`{name}`", what) for name, what in FILTERS.items()]
    family_rows = []
    for name in families:
        spec = families[name]
        family_rows.append((f"`{name}`", spec.title, f"`{spec.pipeline}`", spec.attention))
    sections = {
        "Methods": table(("method", "what it does", "paper", "mechanism", "families"), method_rows()),
        "How far each method is proven, by family": PROOFS_HEAD + table(("method", *families), proof_rows()),
        "Filters, which edit nothing": table(("filter", "what it does"), filter_rows),
        "Attacks": table(("attack", "what it does", "paper", "access", "families"), attack_rows()),
        "Protections of pictures": table(("protection", "what it does", "paper", "role"), protection_rows()),
        "Suites": table(("suite", "what it asks"), suite_rows),
        "Scorers": table(("scorer", "what it reads", "extra"), scorer_rows),
        "Families": table(("family", "models", "pipeline", "attention"), family_rows),
        "Parts of the training engine, by method": table(("method", "parts"), part_rows()),
    }
    head = "# What is there\n\nMade from the registries by `python docs/tables.py`.\n"
    return head + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items())


def is_there(by: str) -> bool:
    """Whether what keeps a promise exists: KIND:NAME, with the names that `docs/systems.toml` explains."""
    kind, _, name = by.partition(":")
    if kind == "file":
        return (ROOT / name).is_file()
    if kind == "sampler":
        return name in SAMPLERS or name in OVERSHOOT_SAMPLERS
    if kind == "judge":
        return name in set(scorers) and scorers[name].reader is not None
    if kind in ("command", "option"):
        command, _, option = name.partition(".")
        options = getattr(command_options, f"{command.title().replace('-', '')}Options", None)
        return options is not None and (not option or option in {field.name for field in fields(options)})
    own, family, setting = *name.partition("@")[::2], name.partition(".")[2]
    own = own.partition(".")[0]
    if own not in set(REGISTRIES[kind]):
        return False
    if kind != "method" or not (family or setting):
        return True
    info = methods[own]
    return family in info.families or setting in {field.name for field in fields(info.settings)}


def links_to(by: Iterable[str]) -> str:
    """Links to the pages of methods, attacks, suites and scorers, each once."""
    pages = []
    for one in by:
        kind, _, name = one.replace("judge:", "scorer:").partition(":")
        entry = re.split("[.@]", name)[0]
        if kind in ("method", "attack", "protection", "suite", "scorer") and is_there(f"{kind}:{entry}"):
            pages.append(f"[`{entry}`]({kind}s/{entry}.md)")
    return ", ".join(dict.fromkeys(pages))


@cache
def methods_of_recipes() -> dict[str, str | None]:
    """The method of each packaged recipe; None for one of an attack."""
    return {name: load_recipe(name).method for name in recipes()}


def recipes_of_methods(names: Iterable[str]) -> list[str]:
    """Packaged recipes for some methods."""
    wanted = set(names)
    return [name for name, method in methods_of_recipes().items() if method in wanted]


def rows_of(names: Iterable[str]) -> str:
    """Links to the tables that hold a row of one of some methods or attacks."""
    found = []
    for title, page in RESULTS.items():
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        if any(re.search(rf"\| `?{re.escape(name)}`? \|", text) for name in names):
            found.append(f"[{title}]({page})")
    return ", ".join(found)


def system_row(number: int, system: dict[str, Any]) -> tuple[str, ...]:
    """A row for one system."""
    parts = system["parts"]
    kept = [part for part in parts if is_there(part.get("by", "file:"))]
    missing = [part["does"] for part in parts if part not in kept]
    by = [part["by"] for part in kept]
    measured = ("method:", "attack:", "protection:")
    names = [re.split("[.@]", one.partition(":")[2])[0] for one in by if one.startswith(measured)]
    made = ", ".join(f"[{name}](recipes/{name}.md)" for name in recipes_of_methods(names))
    promises = "; ".join(part["does"] for part in kept)
    rows = rows_of(names)
    state = "absent" if not kept else "part" if missing else "whole" if rows else "unmeasured"
    named = str(number), system["name"], system["paper"], state
    return *named, promises, "; ".join(missing), links_to(by), made, rows


def beside_rows(beside: dict[str, list[str]]) -> list[tuple[str, ...]]:
    """A row for each method beside the systems: bases of other systems, and baselines of every table."""
    rows = []
    for role, names in beside.items():
        for name in names:
            page = links_to([f"method:{name}"])
            made = ", ".join(f"[{one}](recipes/{one}.md)" for one in recipes_of_methods([name]))
            measured = rows_of([name])
            state = "absent" if not page else "whole" if measured else "unmeasured"
            rows.append((page or name, role, state, made, measured))
    return rows


def systems() -> str:
    """The page of systems."""
    data = tomllib.loads((ROOT / "docs/systems.toml").read_text(encoding="utf-8"))
    columns = ("", "system", "paper", "state", "is here", "missing", "page", "recipes", "rows")
    rows = [system_row(number, system) for number, system in enumerate(data["system"], 1)]
    beside = table(("method", "role", "state", "recipes", "rows"), beside_rows(data["beside"]))
    filters = table(("filter", "what it does"), [(f"`{name}`", what) for name, what in FILTERS.items()])
    return (
        f"{SYSTEMS_HEAD}{table(columns, rows)}\n## Beside them\n\n{beside}\n## Filters\n\n"
        f"Baselines that edit nothing: arms of `unconcept bench --methods`.\n\n{filters}"
    )


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
    SYSTEMS.write_text(systems(), encoding="utf-8")
