"""Everything that a user can name says what it is."""

import dataclasses
import inspect

import pytest

import unconcept
from unconcept.attacks import attacks
from unconcept.core.docstrings import field_descriptions
from unconcept.evaluation.suites.registry import suites
from unconcept.methods import methods
from unconcept.prompts.forms import prompt_forms
from unconcept.scorers import scorers

REGISTRIES = {registry.noun: registry for registry in (methods, attacks, scorers, suites, prompt_forms)}
SETTINGS = [registry[name] for registry in (methods, attacks) for name in registry]


def undocumented(thing: object, name: str) -> list[str]:
    """The thing, and where it is a class its public methods, as far as they say nothing.

    What every edit does is said once, in the protocol.
    """
    found = [] if inspect.getdoc(thing) else [name]
    if inspect.isclass(thing):
        for own, member in vars(thing).items():
            called = inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod))
            described = inspect.getdoc(getattr(thing, own)) or inspect.getdoc(getattr(unconcept.Edit, own, None))
            if called and not own.startswith("_") and not described:
                found.append(f"{name}.{own}")
    return found


@pytest.mark.parametrize("name", unconcept.__all__)
def test_what_the_package_exports_is_documented(name) -> None:
    assert undocumented(getattr(unconcept, name), name) == []


@pytest.mark.parametrize("noun", REGISTRIES)
def test_every_entry_of_a_registry_has_a_summary(noun) -> None:
    registry = REGISTRIES[noun]
    assert [name for name in registry if len(registry[name].summary) < 10] == []


@pytest.mark.parametrize("info", SETTINGS, ids=lambda info: info.name)
def test_every_setting_is_described(info) -> None:
    described = field_descriptions(info.settings)
    assert [field.name for field in dataclasses.fields(info.settings) if field.name not in described] == []
