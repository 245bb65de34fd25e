"""What the results tables compare: methods under their `moji` recipes, stages of them, and seeds of trainings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmarks.kept_trials import KeptTrial, request_hash
from unconcept.worlds.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.edit_task import Variant

BUDGETS = {  # of a training: its setting, and the paper's recipe
    "esd": ("iterations", "esd-paper-object"),
    "all-but-one": ("iterations", "all-but-one-object"),
    "concept-ablation": ("iterations", "concept-ablation-instance"),
    "kscu": ("iterations", "kscu-object"),
    "spm": ("iterations", "spm-concept"),
    "receler": ("iterations", "receler-concept"),
    "advunlearn": ("iterations", "advunlearn-nudity"),
    "few-shot": ("epochs", "few-shot-paper"),
    "slug": ("max_search_iterations", "slug-celebrity"),
    "sculpting-memory": ("num_epochs", "sculpting-memory-imagenette"),
    "mace": ("max_train_steps", "mace-automobile"),
}
HEADLINE = ("uce", "speed", "esd", "spm", "advunlearn", "mace", "adavd", "ace")  # in every table of attacks and suites
SEEDS = 3  # of a training, the recipe's own among them


def rivals(named: str | None = None, model: str = DEFAULT_MODEL) -> tuple["Variant", ...]:
    """Methods under the model's recipes, every one that has one by default; MACE's closed-form stage by itself, and
    ESD once more, on all that its recipe leaves as it is.
    """
    from unconcept.evaluation.tasks.edit_task import variant_of_method

    arms = [variant_of_method(name, model) for name in _chosen(named, model)]
    arms += [arm.changed("mace, not trained", {"max_train_steps": 0}) for arm in arms if arm.method == "mace"]
    return (*arms, *(arm.changed("esd-u", {"train_method": "u"}) for arm in arms if arm.method == "esd"))


def main_method(named: str | None = None) -> tuple["Variant", ...]:
    """UCE, if it is among the methods that are named."""
    return tuple(one for one in rivals(named) if one.label == "uce")


def trained(named: str | None = None) -> tuple["Variant", ...]:
    """Trained methods under their `moji` recipes, every one by default, each under several seeds."""
    from unconcept.core.settings import default_settings
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.methods import methods

    arms: list[Variant] = []
    for name in _chosen(named):
        if name in BUDGETS:
            own = variant_of_method(name)
            first = own.settings.get("seed", default_settings(methods[name].settings)["seed"])
            more = [own.changed(f"{name}, seed {first + i}", {"seed": first + i}) for i in range(1, SEEDS)]
            arms += [own, *more]
    return tuple(arms)


def encoder_parts(named: str | None = None) -> tuple["Variant", ...]:
    """Few-shot erasing under its recipe with each choice of what it trains, if it is among the methods named."""
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.methods.few_shot import EncoderParts

    if "few-shot" not in _chosen(named):
        return ()
    own = variant_of_method("few-shot")
    return tuple(own.changed(f"few-shot, {part}", {"parts": part}) for part in get_args(EncoderParts))


def scripts(named: str | None = None) -> tuple["Variant", ...]:
    """UCE as its papers' scripts run it."""
    from unconcept.evaluation.tasks.edit_task import Variant

    settings = {"uce 2025, null anchor": {}, "uce 2023, null anchor": {"tokens": "last+tail"}}
    return tuple(Variant(label, "uce", own, bare=True) for label, own in settings.items() if "uce" in _chosen(named))


def _chosen(named: str | None, model: str = DEFAULT_MODEL) -> list[str]:
    from unconcept.evaluation.trials.filters import FILTERS
    from unconcept.evaluation.worlds import world_of
    from unconcept.methods import methods

    if named:
        return [name if name in FILTERS else methods[name].name for name in named.split(",")]
    own = (name for name in methods if methods[name].erases_unwatched and world_of(model).recipe(name))
    return [*own, *FILTERS]


def is_current(trial: KeptTrial, variant: "Variant", model: str = DEFAULT_MODEL) -> bool:
    """Whether the trial's edit was made with what the variant says now, for what is asked now."""
    return (trial.method, trial.settings, trial.request) == made_with(variant, trial.concepts, model)


def made_with(
    variant: "Variant", concepts: tuple[str, ...], model: str = DEFAULT_MODEL
) -> tuple[str, Mapping[str, Any], str]:
    """The method, all of its settings and the hash of the request of a variant's edit, as they would be now."""
    from unconcept.core.recipe import without_folders
    from unconcept.core.settings import build_settings, settings_data
    from unconcept.evaluation.tasks.edit_task import EditTask
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.trials.filters import FILTERS, trial_of_filter
    from unconcept.methods import methods

    if variant.method in FILTERS:
        origin = trial_of_filter(variant.method, concepts, EditedModel(model), None).edit.origin
        assert origin is not None
        return variant.method, origin.settings, request_hash(origin.targets, origin.anchors, origin.retain)
    task = EditTask(EditedModel(model), variant, concepts, Path())
    asked, solver = task.chosen.request, methods[variant.method].settings
    settings = without_folders(settings_data(build_settings(solver, task.settings)))
    return variant.method, settings, request_hash(asked.targets, asked.anchors, asked.retain)


def current_trials(
    trials: Sequence[KeptTrial],
    variants: Sequence["Variant"],
    requests: Sequence[tuple[str, ...]],
    model: str = DEFAULT_MODEL,
) -> tuple[list[KeptTrial], list[str]]:
    """The trials of these variants on these requests, in this order; and a line on those with settings of the past."""
    known = {(one.label, one.concepts): one for one in trials}
    found, stale = list[KeptTrial](), list[str]()
    for variant in variants:
        own = [known[variant.label, names] for names in requests if (variant.label, names) in known]
        current = [one for one in own if is_current(one, variant, model)]
        if len(current) < len(own):
            stale.append(
                f"{variant.label}: {len(own) - len(current)} of {len(own)} edits had other settings or requests"
            )
        found += current
    return found, stale
