"""`docs/reference.md`, made from the registries: `python docs/tables.py`. A test says when it has to be made again."""

import ast
from pathlib import Path

from unconcept.attacks import attacks
from unconcept.evaluation.suites.registry import suites
from unconcept.methods import methods
from unconcept.models.families import families
from unconcept.scorers import scorers

REFERENCE = Path(__file__).parent / "reference.md"
METHODS = Path(__file__).parent.parent / "src/unconcept/methods"


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


def reference() -> str:
    """The page."""
    suite_rows = [(f"`{name}`", suites[name].summary) for name in sorted(suites)]
    scorer_rows = [(f"`{name}`", scorers[name].summary, scorers[name].extra or "") for name in sorted(scorers)]
    family_rows = []
    for name in families:
        spec = families[name]
        family_rows.append((f"`{name}`", spec.title, f"`{spec.pipeline}`", spec.attention))
    sections = {
        "Methods": table(("method", "what it does", "paper", "mechanism", "families"), method_rows()),
        "Attacks": table(("attack", "what it does", "paper", "access", "families"), attack_rows()),
        "Suites": table(("suite", "what it asks"), suite_rows),
        "Scorers": table(("scorer", "what it reads", "extra"), scorer_rows),
        "Families": table(("family", "models", "pipeline", "attention"), family_rows),
        "Parts of the training engine, by method": table(("method", "parts"), part_rows()),
    }
    head = "# What is there\n\nMade from the registries by `python docs/tables.py`.\n"
    return head + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items())


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
