"""SD3 and FLUX to export from, and diffusers' converters at their width."""

from functools import cache

import pytest

from tests.edits import mmdit_toys


@pytest.fixture
def narrow_flux(monkeypatch) -> None:
    mmdit_toys.narrow_flux(monkeypatch)


@pytest.fixture(scope="module")
def mmdit_base(tmp_path_factory):
    """A model of a family on disk, written once a module."""
    return cache(lambda family: mmdit_toys.saved(family, tmp_path_factory.mktemp(family) / "base"))
