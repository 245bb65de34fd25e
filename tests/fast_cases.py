"""Which cases run with the fast tests: one of each mechanism. All others are slow, whichever test they belong to."""

from collections.abc import Iterable

import pytest

# The engine of trainings is the same on every family. All methods are trained on the first one in the fast tests; each
# other family keeps one of them, and the rest run with the slow ones.
FIRST_FAMILY = "sd1"
FAST_TRAININGS = {("esd", "flux"), ("spm", "sd3"), ("esd", "pixart"), ("concept-ablation", "sd2"), ("esd", "sdxl")}

# What uses a family sees no difference between it and the one that stands in for it: SD 2 has SD 1's UNet, Chroma is
# FLUX with one text encoder less, and both FLUX.2 have one map on states of a language model, as Qwen-Image.
STAND_INS = {"sd2": "sd1", "chroma": "flux", "flux2_klein": "qwenimage", "flux2": "qwenimage"}
USERS_OF_FAMILIES = ("methods", "attacks", "edits", "scorers", "cli")
OWN_NAMES = ("export", "imported", "bake")
"""Words of files on the names of tensors, which every family has of its own."""


def fast_ends(cases: Iterable[object]) -> list[object]:
    """Cases that differ in data alone: the first and the last are fast."""
    first, *middle, last = cases
    return [first, *(pytest.param(case, marks=pytest.mark.slow) for case in middle), last]


def fast_among(cases: Iterable[object], fast: Iterable[object]) -> list[object]:
    """All cases, in their order; those that are not among the fast ones are slow."""
    fast = list(fast)

    def marked(case: object) -> object:
        values = case if isinstance(case, tuple) else (case,)
        return case if case in fast else pytest.param(*values, marks=pytest.mark.slow)

    return [marked(case) for case in cases]


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark the cases that another fast case stands for."""
    for item in items:
        method, family = training_of(item)
        if family not in ("", FIRST_FAMILY) and (method, family) not in FAST_TRAININGS and is_trained(method):
            item.add_marker("slow")
    fast = {case_of(item) for item in items if item.get_closest_marker("slow") is None}
    for item in items:
        *case, family = case_of(item)
        if (*case, STAND_INS.get(family)) in fast and training_of(item) not in FAST_TRAININGS:
            item.add_marker("slow")


def case_of(item: pytest.Item) -> tuple[str, str, str]:
    """Its test, its other parameters, and its family; "" where it is of none that another may stand in for."""
    callspec = getattr(item, "callspec", None)
    family = "" if callspec is None or not uses_families(item) else callspec.params.get("family", "")
    if not isinstance(family, str) or not family:
        return item.nodeid, "", ""
    others = {name: value for name, value in callspec.params.items() if name != "family"}
    return item.nodeid.partition("[")[0], repr(others), family


def uses_families(item: pytest.Item) -> bool:
    is_of_names = any(word in item.path.stem for word in OWN_NAMES)
    return item.path.parent.name in USERS_OF_FAMILIES and not is_of_names


def training_of(item: pytest.Item) -> tuple[str, str]:
    """The method and the family that a test of `tests/methods` is about; "" where it is about none."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or item.path.parent.name != "methods":
        return "", ""
    own = item.path.stem.removeprefix("test_").replace("_", "-")
    return callspec.params.get("name", own), callspec.params.get("family", "")


def is_trained(method: str) -> bool:
    """Whether its edits come out of a training."""
    from unconcept.methods import methods

    return method in set(methods) and methods[method].mechanism == "trained"
