"""The results table: one edit a concept, pooled, clustered by concept: `make results`.

Finished (setting, concept) pairs are kept in `out/results`, so the same command goes on after being stopped.
`--tuning` asks the tune concepts on other seeds instead, to choose settings by; nothing else may choose them.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unconcept.core.concept import NULL_ANCHORS
from unconcept.core.recipe import load_recipe
from unconcept.core.registry import suggest
from unconcept.core.request import Ask
from unconcept.evaluation.erasure import make_edit
from unconcept.evaluation.generate import draw, spec_for
from unconcept.evaluation.judging import Answer, Row, key, tabulate, words
from unconcept.evaluation.prompts import Check, Prompt, Sizes, moji_checks
from unconcept.evaluation.requests import choose
from unconcept.models import ModelView, open_model
from unconcept.models.open import MOJI
from unconcept.moji.table import Entry, table
from unconcept.scorers.moji_judge import MojiJudge

OBJECTS = 18  # of the report objects, spread evenly over the table
GOALS = {"direct": "<= 10 %", "synonym": "<= 25 %", "near": "loss <= 15", "far": "loss <= 5", "style": "loss <= 5"}


@dataclass(frozen=True)
class Setting:
    """A column of settings to measure: the table's request, or the paper's null anchor with nothing retained."""

    name: str
    values: Mapping[str, Any]
    bare: bool = False


def shipped() -> Setting:
    return Setting("moji recipe", load_recipe("moji-uce").settings)


PAPER = (
    Setting("2025 defaults, null anchor, nothing retained", {}, bare=True),
    Setting("2023 policy, null anchor, nothing retained", {"tokens": "last+tail"}, bare=True),
)
CANDIDATES = tuple(
    Setting(f"{tokens}, lamb {lamb}, preserve {preserve}", {"tokens": tokens, "lamb": lamb, "preserve_scale": preserve})
    for tokens, lamb, preserve in (("last", 0.5, 1.0), ("last+tail", 0.5, 0.1), ("last+tail", 0.5, 1.0), ("last", 20.0, 1.0))
)


def concepts(tuning: bool) -> list[Entry]:
    """Report (or tune) objects spread over the table, and all styles and harmful objects of that part."""
    part = [e for e in table().entries if e.erasable and e.split == ("tune" if tuning else "report")]
    objects = [e for e in part if e.kind == "object"]
    count = min(len(objects), 6 if tuning else OBJECTS)
    return [objects[i * len(objects) // count] for i in range(count)] + [e for e in part if e.kind != "object"]


def answers(model: ModelView, judge: MojiJudge, entry: Entry, setting: Setting, sizes: Sizes, tuning: bool, store: Path) -> list[Answer]:
    """Edit, draw and judge one concept under one setting, or read what was found before."""
    path = store / f"{entry.name}-{setting.name}.json".replace(" ", "_").replace(",", "")
    checks = moji_checks(table(), [entry.name], sizes, tuning)
    before = _before(model, judge, checks, store / f"{entry.name}-before.json".replace(" ", "_"))
    if path.exists():
        after = json.loads(path.read_text(encoding="utf-8"))
    else:
        ask = Ask((entry.name,), (NULL_ANCHORS[entry.kind],), ()) if setting.bare else Ask((entry.name,))
        edit = make_edit(model, choose(ask, MOJI), "uce", setting.values)
        with edit.applied(model):
            after = _judged(model, judge, checks)
        path.write_text(json.dumps(after), encoding="utf-8")
    return [Answer(*row) for row in zip(checks, before, after, strict=True)]


def _before(model: ModelView, judge: MojiJudge, checks: list[Check], path: Path) -> list[str]:
    if not path.exists():
        path.write_text(json.dumps(_judged(model, judge, checks)), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def _judged(model: ModelView, judge: MojiJudge, checks: list[Check]) -> list[str]:
    prompts: dict[str, Prompt] = {key(check): check.prompt for check in checks}
    drawn = draw(model, list(prompts.values()), spec_for(MOJI, batch_size=32))
    return words(judge, checks, dict(zip(prompts, drawn, strict=True)))


def lines(setting: Setting, rows: list[Row], found: list[Answer]) -> list[str]:
    """Rows of the Markdown table, with the worst concept of each group."""
    out = []
    for row in rows:
        falls = row.group in ("direct", "synonym", "indirect")
        by_concept: dict[str, list[float]] = {}
        for answer in found:
            if answer.check.group == row.group:
                by_concept.setdefault(answer.check.concept, []).append(answer.shown[1] - (0 if falls else answer.shown[0]))
        worst = (max if falls else min)(by_concept, key=lambda name: sum(by_concept[name]) / len(by_concept[name]))
        value = sum(by_concept[worst]) / len(by_concept[worst])
        cells = (
            setting.name,
            row.group,
            GOALS.get(row.group, ""),
            row.before,
            row.after,
            f"{100 * row.change.value:+.1f} [{100 * row.change.low:+.1f}, {100 * row.change.high:+.1f}]",
        )
        out.append("| " + " | ".join(map(str, (*cells, f"{row.nothing.value:.1%}", f"{worst} {value:+.0%}", row.after.n, row.after.clusters))) + " |")
    return out


HEAD = """| setting | group | goal | before | after | change, points | nothing after | worst concept | n | concepts |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--limit", type=int, help="concepts at most, spread over the kinds")
    parser.add_argument("--only", help="one setting by its name")
    args = parser.parse_args()
    settings = {s.name: s for s in (CANDIDATES if args.tuning else (shipped(), *PAPER))}
    if args.only:
        settings = {args.only: suggest(args.only, settings, "setting")}
    store = Path("out/tuning" if args.tuning else "out/results")
    store.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(12, 8) if args.tuning else Sizes(28, 28)
    chosen = concepts(args.tuning)
    chosen = chosen[:: max(1, -(-len(chosen) // args.limit))] if args.limit else chosen
    torch.set_grad_enabled(False)
    model, judge = open_model(), MojiJudge()
    table_lines = [HEAD]
    for setting in settings.values():
        found: list[Answer] = []
        for entry in chosen:
            found += answers(model, judge, entry, setting, sizes, args.tuning, store)
            print(f"{setting.name}: {entry.name}", flush=True)
        rows = lines(setting, tabulate(found, by_concept=True), found)
        print("\n".join(rows), flush=True)
        table_lines += rows
    if not args.tuning:
        _write(args.out, table_lines, judge, [entry.name for entry in chosen])


def _write(path: Path, rows: list[str], judge: MojiJudge, names: list[str]) -> None:
    spec = spec_for(MOJI)
    text = f"""# UCE on `moji`

One edit for each of {len(names)} `report` concepts ({", ".join(names)}), pooled. Share of pictures that show what the
prompt asks for, by {judge.name} version {judge.version} (weights {judge.hash[:12]}, first guess); unedited and edited model from the same
noise, seeds from 1,000,000 on, {spec.steps} steps, guidance {spec.guidance_scale}; 95 % intervals resample concepts. Table of concepts {table().hash[:12]}.
Made by `python -m benchmarks.results`; `make results` measures all concepts and settings.

"""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
