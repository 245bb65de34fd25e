"""Values laid over one another, each knowing where it is from: default < recipe < --set < flag."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Layer = Literal["default", "recipe", "--set", "flag"]


@dataclass(frozen=True)
class Given:
    """A value and who gave it."""

    value: Any
    layer: Layer


def overlaid(*layers: tuple[Layer, Mapping[str, Any]]) -> dict[str, Given]:
    """By name the value of the last layer that has it; None is no value."""
    return {name: Given(value, layer) for layer, values in layers for name, value in values.items() if value is not None}


def values_of(given: Mapping[str, Given]) -> dict[str, Any]:
    """The values alone."""
    return {name: one.value for name, one in given.items()}
