"""Shared fixtures."""

import gc
import os
from collections.abc import Iterator

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import pytest


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


@pytest.fixture(scope="module")
def few_steps() -> Iterator[None]:
    """Pictures of users' models are drawn in two steps, unless a test names another number."""
    from unconcept.evaluation.sampling import DrawSpec

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DrawSpec, "steps", 2)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before the slow ones are left out."""
    from tests.fast_cases import mark_slow

    mark_slow(items)


def pytest_collection() -> None:
    """Libraries and collected tests live as long as the process: what looks for garbage need not walk through them."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on there is garbage."""
    gc.freeze()
    gc.enable()
