"""`unconcept methods`: the table of methods, from the registry."""

from dataclasses import fields

from . import options
from .console import print_json, print_table, speaking


def methods(as_json: options.Json = False) -> None:
    """Print every method with its paper, families and settings."""
    with speaking():
        from ..methods import methods as registry

        infos = [registry[name] for name in registry]
        if as_json:
            rows = [{"name": i.name, "paper": i.paper, "families": i.families, "summary": i.summary} for i in infos]
            return print_json([{**row, "settings": {f.name: f.default for f in fields(i.settings)}} for row, i in zip(rows, infos, strict=True)])
        settings = [", ".join(f"{f.name}={f.default}" for f in fields(i.settings)) for i in infos]
        rows = [(i.name, i.paper, " ".join(i.families), s, i.summary) for i, s in zip(infos, settings, strict=True)]
        print_table("Methods", ("method", "paper", "families", "settings and defaults", "what it does"), rows)
