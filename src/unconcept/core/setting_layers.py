"""Values laid over one another, each knowing where it is from: default < recipe < --set < flag."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SettingLayer = Literal["default", "recipe", "--set", "flag"]


@dataclass(frozen=True)
class LayeredValue:
    """A value and who gave it."""

    value: Any
    layer: SettingLayer


def merge_layers(*layers: tuple[SettingLayer, Mapping[str, object]]) -> dict[str, LayeredValue]:
    """By name the value of the last layer that has it; None is no value."""
    return {
        name: LayeredValue(value, layer)
        for layer, values in layers
        for name, value in values.items()
        if value is not None
    }


def layered_values(given: Mapping[str, LayeredValue]) -> dict[str, Any]:
    """The values alone."""
    return {name: one.value for name, one in given.items()}
