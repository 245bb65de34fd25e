"""Planted answers of a judge, for suites."""

from unconcept.evaluation.judging.evidence import TrialEvidence
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.judging.rates import PairedAnswer
from unconcept.evaluation.suites.registry import suites
from unconcept.prompts.checks import Check, Prompt

JUDGE = Judge("moji-judge")


def check(group, concept, i=0, text="p", by="object", wording="") -> Check:
    return Check(Prompt(text, i), group, concept, by, (concept,), wording=wording)


def evidence(rows, judge=JUDGE, concepts=("ann",), **more) -> TrialEvidence:
    return TrialEvidence(concepts, tuple(PairedAnswer(*row) for row in rows), dict, judge, **more)


def figures(name, found) -> dict:
    return {figure.name: figure for figure in suites[name].figures(found)}


def people(group, name, before, after, wording="") -> list:
    """Answers as names, "-" for no face."""
    said = {"-": "nothing"}
    pairs = enumerate(zip(before, after, strict=True))
    return [(check(group, name, i, wording=wording), said.get(a, a), said.get(b, b)) for i, (a, b) in pairs]
