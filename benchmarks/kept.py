"""What was measured, kept in this repository, so that a table can be made of runs on several days and machines.

A file is a head and rows, a row a line, so that what is measured anew changes few lines. The head says on what the
rows were measured; rows of anything else than what is here now are stale.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from unconcept.core.escapes import json_text
from unconcept.core.output_folder import write_atomically
from unconcept.worlds.registry import DEFAULT_MODEL

FOLDER = Path(__file__).with_name("measured")
Row = dict[str, Any]


def measured_on(report: Mapping[str, Any]) -> Row:
    """On what the content of a `report.json` was measured: model, table, judge and way of drawing.

    A report does not say which weights a model's name stands for: it is kept by the package that measured it.
    """
    judge, models = report["judge"] or {}, sorted({trial["edit"]["base"] for trial in report["trials"]})
    return {
        "models": models,
        "weights": "".join(model_weights(name.partition("@")[0]) for name in models),
        "table": report["table_hash"],
        "judge": [judge.get("name"), judge.get("version"), judge.get("hash")],
        "drawing": report["drawing"],
    }


def present_basis(model: str = DEFAULT_MODEL) -> Row:
    """The same of what is here now, on an embedded model."""
    from unconcept.evaluation.worlds import world_of
    from unconcept.report.data import DrawingData
    from unconcept.worlds.registry import embedded_world
    from unconcept.worlds.table import concept_table

    world, known = world_of(model), embedded_world(model)
    assert world.judge is not None
    assert known is not None
    judge = world.judge.open()
    return {
        "models": [known.dated_name],
        "weights": model_weights(model),
        "table": concept_table().hash,
        "judge": [judge.name, judge.version, judge.hash],
        "drawing": DrawingData.model_validate(world.draw_spec(None)).model_dump(mode="json"),
    }


@cache
def model_weights(model: str) -> str:
    """Hash of an embedded model's files."""
    from unconcept.evaluation.tasks.picture_store import hash_folder
    from unconcept.models import find_model

    return hash_folder(find_model(model))


def name_for(model: str, name: str) -> str:
    """The name of a folder or a page of an embedded model's rows: the default model's has no more to it."""
    return name if model == DEFAULT_MODEL else f"{name}-{model}"


def write_rows(path: Path, head: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Write the head's values and the rows, each on a line of its own."""
    lines = [f"{json_text(name)}: {json_text(value)}" for name, value in head.items()]
    lines.append('"rows": [\n' + ",\n".join(json_text(row) for row in rows) + "\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read_rows(path: Path) -> tuple[Row, list[Row]]:
    """The head and the rows of a file; both empty if there is none."""
    if not path.exists():
        return {}, []
    head = json.loads(path.read_text(encoding="utf-8"))
    return head, head.pop("rows")
