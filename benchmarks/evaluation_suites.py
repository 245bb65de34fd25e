"""The published suites as docs/evaluations.md measures them: on what, how large, and which figures rank methods."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.kept import FOLDER
from benchmarks.kept_trials import KeptTrial
from benchmarks.measuring import Table
from benchmarks.report_concepts import drawn_of_kind, drawn_professions, seed_concepts, together
from unconcept.evaluation.tasks.edit_task import Variant

HALVES = (1, 2)  # of each suite's pictures: the same prompts from other noise
PLACE = "evaluations"  # folder of the kept trials
Requests = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Measure:
    """Figures of a suite as one number: their mean over a trial."""

    title: str
    pattern: str
    """Of the names of the figures."""
    falls: bool = False
    """Whether less of it is better."""
    about: str = ""
    """`targets` or `others`: only figures that end in a concept which is erased, or in another."""

    def value(self, trial: KeptTrial, before: bool = False) -> float | None:
        """Its value for an edit, or for the unedited model; None if the trial has no such figure."""
        values = trial.figures_before if before else {name: pair[0] for name, pair in trial.figures.items()}
        own = [
            value for name, value in values.items() if re.fullmatch(self.pattern, name) and self._is_about(name, trial)
        ]
        return sum(own) / len(own) if own else None

    def _is_about(self, name: str, trial: KeptTrial) -> bool:
        is_target = name.rpartition(", ")[2] in trial.concepts
        return not self.about or is_target == (self.about == "targets")


@dataclass(frozen=True)
class Protocol:
    """One suite: what is erased for it, its size, and what it says."""

    suite: str
    requests: Callable[[], Requests]
    limit: int
    """Prompts in a group at most, of each half."""
    columns: tuple[Measure, ...]
    gone: Measure | None = None
    """By which it ranks methods on what should be gone."""
    kept: Measure | None = None
    """By which it ranks them on what should stay."""
    own: Measure | None = None
    """Its own total; None: the mean of the two ranks."""
    said: str = ""
    """What stands in here for what its paper has."""
    anchors: tuple[str, ...] = ()

    def tables(self, variants: Callable[[str | None], tuple[Variant, ...]], folder: Path = FOLDER) -> list[Table]:
        """A table for each half, on pictures that no other suite and no other half has."""
        chosen = partial(_anchored, variants, self.anchors)
        return [
            Table(
                self.suite,
                chosen,
                self.requests(),
                self.limit,
                seed=noise_of(self.suite, half),
                folder=folder / PLACE / f"half-{half}",
            )
            for half in HALVES
        ]


def _anchored(
    variants: Callable[[str | None], tuple[Variant, ...]], anchors: tuple[str, ...], named: str | None
) -> tuple[Variant, ...]:
    from dataclasses import replace

    return tuple(replace(one, anchors=anchors) for one in variants(named))


def noise_of(suite: str, half: int) -> int:
    """The seed of a suite's half."""
    return 1 + int.from_bytes(hashlib.sha256(f"{suite}\0{half}".encode()).digest()[:3], "big")


def _each(names: Sequence[str]) -> Requests:
    return tuple((name,) for name in names)


def _of_all_kinds() -> Requests:
    """An object, a style, a harmful object."""
    return _each(seed_concepts())


def _objects() -> Requests:
    """Two objects and a harmful one."""
    return _each((*drawn_of_kind("object", 2), *drawn_of_kind("harmful", 1)))


def _acc(begin: str, **more: bool) -> Measure:
    return Measure(begin, re.escape(begin), **more)


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "erase-eval",
        _of_all_kinds,
        24,
        (*(Measure(f"M{i}", f"M{i}, .+") for i in range(1, 5)), Measure("EraseEval form", "EraseEval form, .+")),
        gone=Measure("M1 and M2", "M[12], .+"),
        kept=Measure("M3 and M4", "M[34], .+"),
        own=Measure("EraseEval form", "EraseEval form, .+"),
        said="moji-judge stands in for the remote judges, so the total is EraseEval's form, not its score; M4's"
        " references are pictures of the unedited model.",
    ),
    Protocol(
        "celebrity",
        lambda: _each(drawn_professions(3)),
        8,
        (
            *(_acc(f"{name}, strict", falls=name != "Acc_s") for name in ("Acc_e", "Acc_s", "Acc_g")),
            Measure("faces, erased", "faces, erased"),
            *(_acc(f"{name}, strict") for name in ("H_c", "H_o")),
        ),
        gone=_acc("Acc_e, strict", falls=True),
        kept=_acc("Acc_s, strict"),
        own=_acc("H_o, strict"),
        said="Professions' faces stand in for celebrities', moji-judge for a face recogniser. Each is erased to"
        ' "person"; a picture without a face counts as not recognised.',
        anchors=("person",),
    ),
    Protocol(
        "hub",
        _of_all_kinds,
        12,
        (
            Measure("target proportion", "target proportion", falls=True),
            *(Measure(name, name) for name in ("pinpoint-ness", "selective alignment")),
        ),
        gone=Measure("target proportion", "target proportion", falls=True),
        kept=Measure("pinpoint-ness and selective alignment", "pinpoint-ness|selective alignment"),
        said="Without HUB's remote judges, languages and attacks, and without FID.",
    ),
    Protocol(
        "in-prompt",
        _of_all_kinds,
        24,
        tuple(
            Measure(name, name) for name in ("prompts that fire", "target not shown", "rest kept", "in-prompt score")
        ),
        gone=Measure("target not shown", "target not shown"),
        kept=Measure("rest kept", "rest kept"),
        own=Measure("in-prompt score", "in-prompt score"),
        said="Of the prompts that fire on the unedited model.",
    ),
    Protocol(
        "damage",
        _of_all_kinds,
        12,
        (
            *(
                Measure(f"lost, {group}", f"lost, {group}", falls=True)
                for group in ("near", "far", "co-occurring", "background", "count", "left/right")
            ),
            Measure("variety kept", "variety kept@.+, far"),
        ),
        kept=Measure("lost", "lost, .+", falls=True),
        own=Measure("lost", "lost, .+", falls=True),
        said="Of the pictures that were right before; nothing is asked about the targets.",
    ),
    Protocol(
        "unlearncanvas",
        _of_all_kinds,
        12,
        (_acc("UA"), _acc("IRA"), _acc("CRA")),
        gone=_acc("UA"),
        kept=Measure("IRA and CRA", "IRA|CRA"),
        said="8 styles by 12 objects of `moji`, judged by moji-judge.",
    ),
    Protocol(
        "mace-objects",
        _objects,
        8,
        (_acc("Acc_e", falls=True), _acc("Acc_s"), _acc("Acc_g", falls=True), _acc("H_o")),
        gone=_acc("Acc_e", falls=True),
        kept=_acc("Acc_s"),
        own=_acc("H_o"),
        said="Nine far objects stand in for CIFAR-10's other classes.",
    ),
    Protocol(
        "mace-artists",
        lambda: _each(drawn_of_kind("style", 3)),
        8,
        (
            Measure("CLIP score, erased", "CLIP score@.+, erased", falls=True),
            Measure("CLIP score, others", "CLIP score@.+, others"),
            _acc("H_a"),
        ),
        gone=Measure("CLIP score, erased", "CLIP score@.+, erased", falls=True),
        kept=Measure("CLIP score, others", "CLIP score@.+, others"),
        own=_acc("H_a"),
        said="Styles of `moji` stand in for artists, moji-clip for CLIP.",
    ),
    Protocol(
        "i2p",
        lambda: _each(drawn_of_kind("harmful", 3)),
        6,
        (Measure("harmful objects", "harmful objects", falls=True), _acc("reduction")),
        gone=Measure("harmful objects", "harmful objects", falls=True),
        own=Measure("harmful objects", "harmful objects", falls=True),
        said="Pictures that show a harmful object stand in for body parts: NudeNet counts none on `moji`.",
    ),
    Protocol(
        "speed-few",
        _of_all_kinds,
        12,
        (
            Measure("CLIP score, targets", "CLIP score@.+", falls=True, about="targets"),
            Measure("CLIP score, others", "CLIP score@.+", about="others"),
            Measure("cubic-mmd, others", "cubic-mmd@.+", falls=True, about="others"),
        ),
        gone=Measure("CLIP score, targets", "CLIP score@.+", falls=True, about="targets"),
        kept=Measure("cubic-mmd, others", "cubic-mmd@.+", falls=True, about="others"),
        said="A kernel distance of moji-judge's features stands in for FID, which needs more pictures.",
    ),
    Protocol(
        "speed-many",
        lambda: (together()["10 objects"],),
        5,
        (_acc("Acc_e", falls=True), _acc("Acc_r"), _acc("H")),
        gone=_acc("Acc_e", falls=True),
        kept=_acc("Acc_r"),
        own=_acc("H"),
        said="Ten objects are erased by one edit.",
    ),
)
