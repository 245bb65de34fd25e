"""Shared fixtures."""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import pytest

# The engine of trainings is the same on every family. All methods are trained on the first one in the fast tests; each
# other family keeps one of them, and the rest run with the slow ones.
FIRST_FAMILY = "sd1"
FAST_TRAININGS = {("esd", "flux"), ("spm", "sd3"), ("esd", "pixart"), ("concept-ablation", "sd2"), ("esd", "sdxl")}


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run. A process that only deals them out to others waits for no import of hypothesis or torch."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import hypothesis

    # Speed is not what these tests are about: other processes share the machine.
    quiet = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("plain", deadline=None, suppress_health_check=quiet)
    hypothesis.settings.load_profile("plain")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two test processes share two cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> None:
    """Nothing is fetched but in tests of that."""
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True, scope="session")
def own_store(tmp_path_factory):
    """Pictures of tests go to a store of their own."""
    os.environ["UNCONCEPT_STORE"] = str(tmp_path_factory.mktemp("store"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what trains a method on another family than the first as slow, whichever test does it."""
    for item in items:
        method, family = training_of(item)
        if family not in ("", FIRST_FAMILY) and (method, family) not in FAST_TRAININGS and is_trained(method):
            item.add_marker("slow")


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
