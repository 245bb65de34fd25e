"""Pages that are made and not written: one for each entry of a registry, the API's, and those that stand elsewhere.

A hook of mkdocs: `on_config` adds them to the navigation, `on_files` writes them. None of them is a file here.
"""

import re
from pathlib import Path
from typing import Any

from entries import ENTRIES, Pages, entry_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import unconcept

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/unconcept"
# Pages that stand outside of this folder, by the page that they become.
ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "moji.md": "world/README.md",
    "security.md": "SECURITY.md",
}
WRITTEN: list[tuple[str, list[str]]] = [
    ("Guide", [
        "tutorial.md", "usage.md", "clusters.md", "examples.md", "reference.md", "families.md", "systems.md",
        "derived.md", "comfyui.md", "ledger.md", "responsible-use.md", "extending.md",
        "contributing.md", "changelog.md", "security.md",
    ]),
    ("Design", ["architecture.md", "design.md", "moji.md"]),
    ("Measured", [
        "measured.md", "judge.md", "hand-labels.md", "results.md", "findings.md", "attacks.md", "evaluations.md",
        "attacks-moji-1.md", "crowd.md",
        "protection.md", "continual.md", "continual-many.md", "classifiers.md", "debias.md", "tuning.md",
        "tuning-moji-flow.md",
        "attack-tuning.md", "samplers.md", "repairs.md", "speed.md",
    ]),
]  # fmt: skip


def api_pages() -> Pages:
    """What `import unconcept` offers, and a page for each folder of the package."""
    own = "\n\n".join(f"::: unconcept.{name}" for name in unconcept.__all__)
    pages = {"api/index.md": f"# unconcept\n\n{unconcept.__doc__}\n\n{own}\n"}
    for folder in sorted(path.parent for path in SOURCE.glob("*/__init__.py")):
        modules = []
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(SOURCE.parent).with_suffix("").parts
            if path.name != "__init__.py" and not path.name.startswith("_"):
                modules.append(f"::: {'.'.join(parts)}\n    options:\n      heading_level: 2\n")
        pages[f"api/{folder.name}.md"] = f"# unconcept.{folder.name}\n\n" + "\n\n".join(modules)
    return pages


def examples_page() -> Pages:
    """The scripts of `examples/`, as they are."""
    text = "# Examples\n\nEach runs as it stands; the tests run them.\n"
    for path in sorted((ROOT / "examples").glob("*.py")):
        text += f"\n## {path.stem}\n\n```python\n{path.read_text(encoding='utf-8').strip()}\n```\n"
    return {"examples.md": text}


def pages_elsewhere() -> Pages:
    """README and its like, with their links as they are from this folder."""
    homes = {source: page for page, source in ELSEWHERE.items()}
    homes |= {"LICENSE": "", "NOTICE": "", "examples": "examples.md"}
    pages = {}
    for page, source in ELSEWHERE.items():
        here, text = Path(source).parent, (ROOT / source).read_text(encoding="utf-8")

        def moved(found: re.Match[str], here: Path = here) -> str:
            words, target = found.groups()
            if target.startswith(("http", "#")):
                return found[0]
            place = (ROOT / here / target).resolve().relative_to(ROOT).as_posix()
            place = homes.get(place, place.removeprefix("docs/"))
            return f"[{words}]({place})" if place else words

        pages[page] = re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", moved, text)
    return pages


def decisions() -> list[str]:
    """The decision records, in their order."""
    return [f"adr/{path.name}" for path in sorted((ROOT / "docs/adr").glob("0*.md"))]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page into the navigation."""
    written = [{title: pages} for title, pages in WRITTEN]
    reference = []
    for folder, (names, _, _) in ENTRIES.items():
        pages = [{name: f"{folder}/{name}.md"} for name in names()]
        reference.append({folder.capitalize(): [f"{folder}/index.md", *pages]})
    api = [page for page in api_pages() if page != "api/index.md"]
    config.nav = [
        {"Home": "index.md"},
        *written,
        {"Decisions": ["adr/index.md", *decisions()]},
        {"Reference": reference},
        {"API": ["api/index.md", *api]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the pages."""
    for uri, text in (entry_pages() | api_pages() | examples_page() | pages_elsewhere()).items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Links from the written pages to files outside of this folder lead to the pages that these become."""
    for target, source in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{source})", f"]({target})")
    return markdown
