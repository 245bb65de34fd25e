"""Why closed forms keep less the more they erase: objects by number, and SPEED with other settings and retain sets:
`make crowd`.

What is measured is kept in the repository, as by `benchmarks.results`, whose edits of 10 and of all objects are these.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.kept import present_basis
from benchmarks.kept_trials import KeptTrial
from benchmarks.measuring import Table, measure
from benchmarks.report_concepts import objects
from benchmarks.results_tables import MISSING
from benchmarks.state_rank import rank_sentence
from unconcept.cli.console import quiet_libraries

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.edit_task import Variant

OUT = Path("out/crowd")
COUNTS = (10, 17, 33, 50, 99)  # 17 objects are the share of moji's width that 100 names are of SD 1.4's
SETTLED = (17, 99)  # objects, of the table of settings
FEWER = (10, 17, 99)  # at which `TRAINED` are asked
CAPTIONS = 150  # retained beside the table's texts: with all of them nothing is left to edit in
METHODS = ("uce", "rece", "speed")
TRAINED = ("mace",)
ASKED = {"direct": "target", "far": "far", "style": "other styles"}
HEAD = """# Many concepts in one edit of `{model}`

An edit of W' = W (I + T) has one map T for all texts, as wide as the text's states, so what it erases leaves fewer
directions to what it keeps. {rank} Each object is three texts, so {most} objects take {full:.0%} of the width; 100
names take {usual:.0%} of SD 1.4's 768, as 17 objects take of `moji`'s. Share of pictures that show what the prompt asks
for, by {judge} version {version}; `report` objects, prompts shared among them as in docs/results.md ("Erased
together"), seeds from 1,000,000 on, 95 % intervals that resample the concepts that prompts are about. Detectable: the
smallest true change of target, far objects and styles that a paired test finds in 80 % of cases, if a concept's prompts
change together.

Made by `make crowd` of the rows in `benchmarks/measured`.

"""


def tables() -> dict[str, Table]:
    """All tables by name."""
    from unconcept.evaluation.tasks.edit_task import variant_of_method

    def requests(counts: Sequence[int]) -> tuple[tuple[str, ...], ...]:
        return tuple(objects(count) for count in counts)

    def named(methods: Sequence[str], asked: str | None) -> tuple["Variant", ...]:
        return tuple(variant_of_method(name) for name in methods if asked is None or name in asked.split(","))

    return {
        "counts": Table("together", lambda asked: named(METHODS, asked), requests(COUNTS)),
        "trained": Table("together", lambda asked: named(TRAINED, asked), requests(FEWER)),
        "settings": Table("together", lambda asked: settings() if named(("speed",), asked) else (), requests(SETTLED)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--methods", help="to measure, separated by commas; every one by default")
    parser.add_argument("--max-minutes", type=float, help="of all tables; what is finished by then is kept")
    parser.add_argument("--from-kept", action="store_true", help="measure nothing, only write the page")
    args = parser.parse_args()
    quiet_libraries()
    if not args.from_kept:
        measure(list(tables().values()), args.methods, args.max_minutes, OUT)
    args.docs.mkdir(parents=True, exist_ok=True)
    (args.docs / "crowd.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """The tables by count, of closed forms and trained methods, and that of SPEED's settings."""
    from unconcept.evaluation.tasks.edited_model import EditedModel

    width, basis, known = EditedModel().base().embed([""]).shape[1], present_basis(), tables()
    text = HEAD.format(
        model=basis["models"][0],
        judge=basis["judge"][0],
        version=basis["judge"][1],
        rank=rank_sentence(),
        most=COUNTS[-1],
        full=3 * COUNTS[-1] / width,
        usual=100 / 768,
    )
    found = {name: one.found() for name, one in known.items()}
    stale = dict.fromkeys(line for _, lines in found.values() for line in lines)
    if stale:
        text += f"Kept rows that are left out: {'; '.join(stale)}.\n\n"
    parts = []
    for name in ("counts", "trained"):
        for label in known[name].labels:
            own = {(str(len(one.concepts)),): one for one in found[name][0] if one.label == label}
            wanted = [(str(len(concepts)),) for concepts in known[name].requests]
            parts.append(f"## {label}\n\n{table(['objects'], wanted, own)}")
    for concepts in known["settings"].requests:
        own = {(one.label,): one for one in found["settings"][0] if one.concepts == concepts}
        wanted = [(label,) for label in known["settings"].labels]
        parts.append(f"## SPEED at {len(concepts)} objects\n\n{table(['setting'], wanted, own)}")
    return text + "\n".join(parts)


def settings() -> tuple["Variant", ...]:
    """SPEED's recipe, and one change each."""
    from unconcept.evaluation.tasks.edit_task import Variant, variant_of_method
    from unconcept.prompts.captions import load_captions

    own, everyday = variant_of_method("speed"), tuple(load_captions("everyday")[:CAPTIONS])
    changes: dict[str, tuple[dict, tuple[str, ...]]] = {
        "threshold 0.01": ({"threshold": 0.01}, ()),
        "threshold 10": ({"threshold": 10.0}, ()),
        "without the filter": ({"disable_filter": True}, ()),
        "without filter and copies": ({"aug_num": 0}, ()),
        "captions retained too": ({}, everyday),
        "captions, without the filter": ({"disable_filter": True}, everyday),
    }
    return (
        own,
        *(
            Variant(label, "speed", {**own.settings, **change}, retain=more)
            for label, (change, more) in changes.items()
        ),
    )


def table(head: list[str], wanted: Sequence[tuple[str, ...]], found: dict[tuple[str, ...], KeptTrial]) -> str:
    """A row an edit: its names, how many texts it erases and retains, then the rate of each group."""
    from unconcept.report.markdown import markdown_table

    lines = [[*head, "texts, retained", *ASKED.values(), "detectable, points", "drift", "projector's rank"]]
    lines.append(["---"] * len(lines[0]))
    for names in wanted:
        cells = cells_of(found[names]) if names in found else [MISSING, *[""] * (len(lines[0]) - len(names) - 1)]
        lines.append([*names, *cells])
    return markdown_table(lines)


def cells_of(one: KeptTrial) -> list[str]:
    """Texts, rates and exact figures of one edit."""
    from unconcept.evaluation.trials.variants import pooled_group_rates
    from unconcept.report.markdown import format_detectable, format_rate

    rows = {row.group: row for row in pooled_group_rates([one])}
    return [
        ", ".join(map(str, one.texts)),
        *(format_rate(rows[group].after) for group in ASKED),
        ", ".join(format_detectable(rows[group].detectable) for group in ASKED),
        f"{one.exact['drift']:.2f}" if "drift" in one.exact else "",
        f"{one.exact['projector_rank']:.0f}" if "projector_rank" in one.exact else "",
    ]


if __name__ == "__main__":
    main()
