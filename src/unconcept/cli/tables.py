"""`unconcept methods`, `attacks`, `scorers`, `suites`, `specs`: tables printed from the registries."""

from collections.abc import Sequence

from . import options
from .console import exit_codes, print_json, print_table, quiet_libraries


def methods(as_json: options.JsonFlag = False) -> None:
    """List the methods with their papers and settings, and for which families each is defined."""
    with exit_codes():
        quiet_libraries()
        from ..core.settings import default_settings
        from ..methods import methods as known
        from ..models.families import FAMILIES

        infos = [known[name] for name in known]
        support = [{family: info.refusal(family) for family in FAMILIES} for info in infos]
        if as_json:
            told = (
                {
                    "name": i.name,
                    "paper": i.paper,
                    "families": i.families,
                    "summary": i.summary,
                    "settings": default_settings(i.settings),
                }
                for i in infos
            )
            print_json(
                [
                    {**row, "refused": {name: reason for name, reason in each.items() if reason}}
                    for row, each in zip(told, support, strict=True)
                ]
            )
            return
        print_table(
            "methods",
            ("name", "paper", "summary", "settings"),
            [(i.name, i.paper, i.summary, _text(default_settings(i.settings))) for i in infos],
        )
        rows = [
            (
                info.name,
                *("refused" if reason else "supported" for reason in each.values()),
                next((r for r in each.values() if r), ""),
            )
            for info, each in zip(infos, support, strict=True)
        ]
        print_table("support", ("name", *FAMILIES, "refused because"), rows)


def attacks(as_json: options.JsonFlag = False) -> None:
    """List the attacks by rung: from what anyone can type to what needs the weights."""
    with exit_codes():
        quiet_libraries()
        from ..attacks import ACCESS_LEVELS
        from ..attacks import attacks as known
        from ..core.settings import default_settings

        infos = sorted(map(known.__getitem__, known), key=lambda info: ACCESS_LEVELS.index(info.rung))
        rows = [
            (i.name, i.rung, i.paper, ", ".join(i.families), i.summary, default_settings(i.settings)) for i in infos
        ]
        _show("attacks", ("name", "rung", "paper", "families", "summary", "settings"), rows, as_json)


def scorers(as_json: options.JsonFlag = False) -> None:
    """List the scorers, what they read, and the extra that some of them need."""
    with exit_codes():
        quiet_libraries()
        from ..scorers import scorers as known

        rows = [(i.name, i.reads, i.extra or "-", i.summary) for i in map(known.__getitem__, known)]
        _show("scorers", ("name", "reads", "extra", "summary"), rows, as_json)


def suites(as_json: options.JsonFlag = False) -> None:
    """List the suites: what each asks, and which attacks it runs."""
    with exit_codes():
        quiet_libraries()
        from ..evaluation.suites.registry import suites as known

        rows = [(s.name, s.summary, ", ".join(s.attacks) or "-") for s in map(known.__getitem__, known)]
        _show("suites", ("name", "summary", "attacks"), rows, as_json)


def specs(as_json: options.JsonFlag = False) -> None:
    """List how papers draw, for `--spec`."""
    with exit_codes():
        quiet_libraries()
        from ..evaluation.sampling import DRAW_SPECS

        rows = [
            (name, spec.steps, spec.guidance_scale, spec.sampler or "the model's own")
            for name, spec in DRAW_SPECS.items()
        ]
        _show("specs", ("name", "steps", "guidance", "sampler"), rows, as_json)


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], as_json: bool) -> None:
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(title, columns, [[_text(cell) for cell in row] for row in rows])


def _text(cell: object) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in cell.items()) if isinstance(cell, dict) else str(cell)
