"""Shared fixtures."""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import hypothesis
import pytest
import torch

# Speed is not what these tests are about: other processes share the machine.
hypothesis.settings.register_profile("plain", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("plain")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two test processes share two cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_store(tmp_path_factory):
    """Pictures of tests go to a store of their own."""
    os.environ["UNCONCEPT_STORE"] = str(tmp_path_factory.mktemp("store"))
