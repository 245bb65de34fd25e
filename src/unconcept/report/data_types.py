"""What the data models of reports are made of: tables with exact fields, numbers, shares with intervals."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Number = int | float  # a count stays an integer


class DataTable(BaseModel):
    """A table with exactly these fields; can be built from any object with attributes of the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class SparseTable(DataTable):
    """A table whose JSON leaves out fields that are None."""

    @model_serializer(mode="wrap")
    def _known(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class RateData(DataTable):
    """A share or a mean change with its 95 % interval and count."""

    value: Number
    low: Number
    high: Number
    n: Annotated[int, Field(ge=1)]
    clusters: int | None
    """Number of concepts, if the interval resamples concepts; else None."""

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"
