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
            described = [{"name": i.name, "paper": i.paper, "families": i.families, "summary": i.summary} for i in infos]
            settings = [{f.name: f.default for f in fields(i.settings)} for i in infos]
            return print_json([{**row, "settings": own} for row, own in zip(described, settings, strict=True)])
        defaults = [", ".join(f"{f.name}={f.default}" for f in fields(i.settings)) for i in infos]
        rows = [(i.name, i.paper, " ".join(i.families), own, i.summary) for i, own in zip(infos, defaults, strict=True)]
        print_table("Methods", ("method", "paper", "families", "settings and defaults", "what it does"), rows)
