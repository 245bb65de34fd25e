"""Settings in layers, each value with its layer: default < recipe < --set < flag."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SettingLayer = Literal["default", "recipe", "--set", "flag"]


@dataclass(frozen=True)
class LayeredValue:
    """A value and the layer it comes from."""

    value: Any
    layer: SettingLayer


def merge_layers(*layers: tuple[SettingLayer, Mapping[str, object]]) -> dict[str, LayeredValue]:
    """For each name, the value of the last layer that sets it; None counts as not set."""
    return {
        name: LayeredValue(value, layer)
        for layer, values in layers
        for name, value in values.items()
        if value is not None
    }


def layered_values(given: Mapping[str, LayeredValue]) -> dict[str, Any]:
    """The values by name, without their layers."""
    return {name: one.value for name, one in given.items()}
