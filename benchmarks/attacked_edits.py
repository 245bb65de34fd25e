"""The edits that the attack tables attack: of methods under their recipes, and of a ledger of all concepts together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from unconcept.core.hashing import hash_json
from unconcept.worlds.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.edit_task import Variant
    from unconcept.evaluation.trials.trial import RunContext, Trial

LEDGER_METHOD, LEDGER_CAPTIONS = "speed", "speed"  # of the ledger's states, the one that keeps others best


class AttackedEdit(Protocol):
    """One edit, and the concept of it that is attacked."""

    @property
    def label(self) -> str: ...

    @property
    def concept(self) -> str: ...

    @property
    def made(self) -> str:
        """Hash of what it is made with now."""

    def trial(self, out: Path, context: "RunContext") -> "Trial | None":
        """The edit, made now if it must be; None if it failed or time ran out."""


@dataclass(frozen=True)
class MethodEdit:
    """The edit of a method that erases one concept; or a filter, which makes none."""

    variant: "Variant"
    concept: str
    model: str = DEFAULT_MODEL

    @property
    def label(self) -> str:
        return self.variant.label

    @cached_property
    def made(self) -> str:
        from benchmarks.variants import made_with

        return hash_json(made_with(self.variant, (self.concept,), self.model))[:12]

    def trial(self, out: Path, context: "RunContext") -> "Trial | None":
        from unconcept.evaluation.tasks.edit_task import EditTask
        from unconcept.evaluation.tasks.edited_model import EditedModel
        from unconcept.evaluation.tasks.runner import run_tasks
        from unconcept.evaluation.trials.bench import trial_of_task
        from unconcept.evaluation.trials.filters import FILTERS, trial_of_filter

        unedited = EditedModel(self.model)
        if self.variant.method in FILTERS:
            return trial_of_filter(self.variant.method, (self.concept,), unedited, context.judge)
        task = EditTask(unedited, self.variant, (self.concept,), out / "edits")
        run_tasks([task], context.store, context.record, 1, context.deadline, context.tell)
        return trial_of_task(task) if task.is_done(context.store) else None


@dataclass(frozen=True)
class LedgerEdit:
    """The state of a ledger in which several concepts are in force, with everyday captions retained."""

    concepts: tuple[str, ...]
    concept: str

    @property
    def label(self) -> str:
        return f"ledger of {LEDGER_METHOD}"

    @property
    def made(self) -> str:
        return str(self._course(Path()).key(len(self.concepts)))[:12]

    def trial(self, out: Path, context: "RunContext") -> "Trial | None":
        from unconcept.evaluation.tasks.edited_model import EditedModel
        from unconcept.evaluation.trials.bench import trial_of_edit

        path, _ = self._course(out / "ledger").state(len(self.concepts), context.tell)
        return trial_of_edit(path, EditedModel(), (self.concept,))

    def _course(self, root: Path) -> "Course":  # noqa: F821
        from benchmarks.sequences import Arm, Course, known

        captions = known()["captions"][LEDGER_CAPTIONS]
        return Course(Arm(self.label, LEDGER_METHOD, "ledger", captions=captions), self.concepts, root)


def method_edits(
    variants: Sequence["Variant"], concepts: Sequence[str], model: str = DEFAULT_MODEL
) -> tuple[MethodEdit, ...]:
    """An edit for each variant and concept."""
    return tuple(MethodEdit(variant, concept, model) for variant in variants for concept in concepts)


def ledger_edits(concepts: Sequence[str]) -> tuple[LedgerEdit, ...]:
    """The state of a ledger of all the concepts, to be attacked on each."""
    return tuple(LedgerEdit(tuple(concepts), concept) for concept in concepts)
