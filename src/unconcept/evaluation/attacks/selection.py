"""Selects a suite's attacks: those that are defined for the model's family and that the judge grades."""

from collections.abc import Sequence
from dataclasses import replace

from ...attacks import attacks
from ...core.errors import RequestError, SettingsError
from ...models import Family
from ..judging.choice import NOT_JUDGED_NOTE
from ..judging.judge import Judge
from ..suites.registry import Suite


def attacks_of_family(suite: Suite, named: Sequence[str], family: Family) -> tuple[Suite, dict[str, str]]:
    """Drop attacks that are not defined for the family; also returns a note about them.

    `SettingsError` if the user named such an attack.
    """
    wanted = _wanted(suite)
    beyond = [name for name in wanted if family not in attacks[name].families]
    for info in (attacks[name] for name in beyond if name in named):
        raise SettingsError(info.undefined_for(family))
    reasons = [attacks[name].undefined_for(family) for name in beyond]
    told = {"attacks": f"attacks left out: {'; '.join(reasons)}"} if reasons else {}
    return replace(suite, attacks=tuple(name for name in wanted if name not in beyond)), told


def gradable_attacks(suite: Suite, named: Sequence[str], judge: Judge | None) -> tuple[Suite, dict[str, str]]:
    """Drop attacks that the judge does not grade; also returns a note about them.

    `RequestError` if the user asked for attacks and nobody judges, `SettingsError` if the user named one that this
    judge does not grade.
    """
    wanted = _wanted(suite)
    if judge is None:
        if named:
            raise RequestError(f"attacks are graded by a judge: {NOT_JUDGED_NOTE.removeprefix('not judged: ')}")
        told = {"graded": f"attacks left out, because nobody judges: {', '.join(wanted)}"} if wanted else {}
        return replace(suite, attacks=()), told
    beyond = [name for name in wanted if attacks[name].white_box and not judge.reader.grades_white_box]
    for name in (name for name in beyond if name in named):
        raise SettingsError(ungraded_reason(judge, name))
    if not beyond:
        return suite, {}
    told = {"graded": f"white-box attacks left out, which {judge.scorer} does not grade: {', '.join(beyond)}"}
    return replace(suite, attacks=tuple(name for name in wanted if name not in beyond)), told


def first_attacked_note(suite: Suite, asked: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """Say that only the first of several concepts is attacked, if so."""
    named = list(dict.fromkeys(names[0] for names in asked if len(names) > 1))
    if not named or not suite.attacks:
        return {}
    told = f"of concepts that are erased together only the first is attacked ({', '.join(named[:3])})"
    return {"attacked": f"{told}; `unconcept attack` attacks each"}


def ungraded_reason(judge: Judge, name: str) -> str:
    """Say why a judge by the model itself does not grade an attack."""
    return (
        f"{judge.scorer} does not grade white-box attacks such as {name}, which climb the error that it judges by: name"
        " another judge, --judge clip-score=FOLDER"
    )


def _wanted(suite: Suite) -> list[str]:
    return list(attacks) if "*" in suite.attacks else list(suite.attacks)
