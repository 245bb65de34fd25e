"""Computes one part of the golden values and prints it as one line of JSON: `python -m benchmarks.golden_values PART`.

Every value is computed for itself, from a fresh model and a fixed seed, so that one part alone gives what all give.
"""

import json
import sys
from collections.abc import Callable, Sequence

import torch

from benchmarks.golden_ledger import edit_hashes, ledgers
from tests import tiny
from tests.attacks.cases import QUICK as QUICK_ATTACKS
from tests.attacks.cases import case, input_hash
from tests.methods.planted import planted_services
from tests.methods.quick import family_for, quick_settings
from unconcept.attacks import attacks
from unconcept.core import Request
from unconcept.core.hashing import hash_json
from unconcept.core.recipe import load_recipe
from unconcept.core.request import RequestSpec
from unconcept.core.settings import build_settings
from unconcept.edits import Edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.methods import MethodServices, methods
from unconcept.models import ModelView, open_model
from unconcept.training.session import TrainingProgress, TrainingSession, training_session

DIGITS = 32  # of a hash
STEPS = 3  # of a training whose losses are written down
ERASE, DEBIAS = Request(("dog face",), ("goat",), ("cat",)), Request(("dog face",), (), ("cat",))
LONGER = {
    "concept-ablation": {"iterations": 3},
    "mace": {"max_train_steps": 3},
    "receler": {"iterations": 3},
}  # than the quick ones
OBJECT, STYLE, PROFESSION = "guitar", "ink", "judge"  # of moji's table
ON_MOJI = {"slug": {"look_pictures": 0}, "uce-debias": {"rounds": 3}}


def erase(name: str, model: ModelView, more: dict[str, object]) -> Edit:
    """The method's edit under its quick settings; what it must see is planted."""
    torch.manual_seed(0)
    info = methods[name]
    method = info.settings(**quick_settings(name, model.family) | more)
    return method.erase(model, ERASE if info.does == "erase" else DEBIAS, planted_services(model))


def edits_on_tiny() -> dict[str, str]:
    cases = [(name, family) for name in methods for family in methods[name].families]
    return {f"{name} {family}": edit_hashes(erase(name, tiny.view(family), {})) for name, family in cases}


def edits_on_moji() -> dict[str, str]:
    found = {}
    for name in methods:
        trained = methods[name].mechanism in ("trained", "one-step")
        concepts = (PROFESSION,) if methods[name].does == "debias" else (OBJECT,) if trained else (OBJECT, STYLE)
        for concept in concepts:
            found[f"{name} {concept}"] = edit_hashes(edit_on_moji(name, concept))
    return found


def count_evenly(text: str, attributes: Sequence[str], pictures: int, turn: int) -> tuple[int, ...]:
    """Counts that nobody drew: the first of two attributes comes nearer to its half from turn to turn."""
    first = pictures // 2 + pictures // (4 + turn)
    return first, pictures - first


def edit_on_moji(name: str, concept: str) -> Edit:
    """As the commands make it, under moji's recipe; a training under the tests' quick settings on top.

    A method for flow models alone erases from moji-flow.
    """
    torch.manual_seed(0)
    world = "moji" if "sd1" in methods[name].families else "moji-flow"
    model, recipe = open_model(world, "cpu", "float32"), load_recipe(f"{world}-{name}")
    chosen = resolve_request(RequestSpec((concept,)), world, methods[name].does)
    quick = quick_settings(name, model.family) | ON_MOJI.get(name, {})
    settings = recipe.settings_for(chosen.request.kind) | quick
    return make_edit(model, chosen, name, settings, MethodServices(count_evenly))


def losses() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in methods:
        if methods[name].mechanism == "trained":
            found |= {f"{name} {step}": loss for step, loss in losses_of(name).items()}
    return found


def losses_of(name: str) -> dict[str, str]:
    """A session is told of the mean of all losses so far."""
    means: list[TrainingProgress] = []
    with training_session(TrainingSession(means.append)):
        erase(name, tiny.view(family_for(name)), LONGER.get(name, {}))
    found, total, number = {}, 0.0, 0
    for progress in means:
        if progress.done == 1:
            total, number = 0.0, number + 1
        if progress.done <= STEPS:
            loss, total = progress.loss * progress.done - total, progress.loss * progress.done
            found[f"{progress.name} {number} step {progress.done}"] = f"{loss:.10g}"
    return found


def attacks_on_tiny() -> dict[str, str]:
    cases = [(name, family) for name in attacks for family in attacks[name].families]
    return {f"{name} {family}": attempts_hash(name, family) for name, family in cases}


def attempts_hash(name: str, family: str) -> str:
    torch.manual_seed(0)
    attack = build_settings(attacks[name].settings, QUICK_ATTACKS[name])
    return hash_json([input_hash(attempt) for attempt in attack.search(case(family))])[:DIGITS]


PARTS: dict[str, Callable[[], dict[str, str]]] = {
    "edits-tiny": edits_on_tiny,
    "edits-moji": edits_on_moji,
    "losses": losses,
    "ledger": ledgers,
    "attacks-tiny": attacks_on_tiny,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(PARTS[sys.argv[1]]()))
