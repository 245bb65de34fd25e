"""The debiasing table: eight `report` professions balanced by one edit, the four others retained: `make debias`.

What was drawn is kept, in the loop too, so the same command goes on after being stopped. `--limit` is for a quick look.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from unconcept.cli.console import EXIT_FAILED, exit_codes, progress, quiet_libraries

METHOD, GOAL = "uce-debias", (0.4, 0.6)
HEAD = (
    "profession",
    "",
    "planted",
    "before",
    "after",
    "n",
    "change, points",
    "p (Holm)",
    "detectable",
    "drawn as the profession",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument(
        "--limit", type=int, help="pictures of a profession at most, in a round of the loop and in the table"
    )
    parser.add_argument("--max-minutes", type=float, help="of the table's pictures")
    parser.add_argument("--method-judge", help="counts in the loop in place of moji's judge for methods")
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.core.recipe import load_recipe
    from unconcept.core.request import RequestSpec
    from unconcept.jobs.erase import erase
    from unconcept.jobs.erase_job import Job
    from unconcept.jobs.evaluate import evaluate
    from unconcept.jobs.evaluate_job import EvaluationRun
    from unconcept.worlds.table import concept_table

    names = tuple(entry.name for entry in concept_table().professions if entry.split == "report")
    settings = load_recipe(f"moji-{METHOD}").settings
    if args.limit:
        settings |= {"images": min(settings["images"], args.limit), "rounds": 2}
    out, fresh = Path("out/debias"), {"overwrite": True, "method_judge": args.method_judge}
    job = Job(RequestSpec(names), out / "edit", METHOD, settings, report=False, **fresh)
    with exit_codes(), progress(quiet=False) as tell:
        erase(job, tell)
        edits, limits = (job.out / "edit.safetensors",), {"limit": args.limit, "max_minutes": args.max_minutes}
        run = EvaluationRun(names, out / "report", edits, suite="debias", overwrite=True, **limits)
        report = evaluate(run, tell)
    data = report.data()
    text = page(
        data, args.method_judge or "`moji`'s judge for methods, of another architecture than the one that grades,"
    )
    print(text)
    if report.status != "ok":
        raise SystemExit(EXIT_FAILED)
    if args.limit is None:
        args.docs.mkdir(exist_ok=True)
        (args.docs / "debias.md").write_text(text, encoding="utf-8")


def page(data: dict, counter: str) -> str:
    """Head, goals and table of a report on one edit."""
    from unconcept.report.markdown import markdown_table
    from unconcept.worlds.table import concept_table

    (trial,) = data["trials"]
    judge, drawing, edit = data["judge"], data["drawing"], trial["edit"]
    first = edit["settings"]["attributes"][0]
    figures = {figure["name"]: figure for figure in trial["figures"]}
    balanced = [name for name in trial["concepts"] if GOAL[0] <= figures[f"{name}: {first}"]["value"] <= GOAL[1]]
    rates = paired(trial["checks"], first)
    lines = [
        HEAD,
        ("---",) * len(HEAD),
        *(
            row(entry, figures[f"{entry.name}: {first}"], rates[entry.name], trial)
            for entry in concept_table().professions
        ),
    ]
    settings = ", ".join(f"{name} = {value}" for name, value in edit["settings"].items())
    return f"""# Debiasing on `moji`

One `{edit["method"]}` edit for {len(trial["concepts"])} `report` professions together; the others are retained. \
Share of pictures with a {first}
among those that show {" or ".join(edit["settings"]["attributes"])}, drawn from the neutral caption ("judge", "a \
judge"), by {judge["name"]} version
{judge["version"]} (weights {judge["hash"][:12]}, first guess, any profession's variant counts); unedited and edited \
model from the same
noise, seeds from 1,000,000 on, which the loop never drew; {drawing["steps"]} steps, guidance \
{drawing["guidance_scale"]}; Wilson's 95 %
intervals. p is McNemar's, of no change; detectable, in points, is the smallest true change that it finds in 80 % of \
cases. "Drawn as the profession" is the share of all pictures in which the judge \
sees it,
before -> after. Table of concepts {data["table_hash"][:12]}. Rounds: {edit["report"]["rounds"]:.0f}.
Settings: {settings}. In the loop {counter} counted. Made by `make debias`.

Goal: at least six professions within 60:40, and the others unchanged. Within 60:40: {len(balanced)} of \
{len(trial["concepts"])}.

{markdown_table(lines)}"""


def row(entry, figure: dict, rate: Mapping[str, float | None], trial: dict) -> tuple[str, ...]:
    """One profession."""
    from unconcept.report.markdown import format_detectable, format_p

    before, after = (
        f"{share:.1%} [{low:.1%}, {high:.1%}]"
        for share, (low, high) in ((figure["before"], figure["before_interval"]), (figure["value"], figure["interval"]))
    )
    what = "debiased" if entry.name in trial["concepts"] else "retained"
    change = f"{100 * (figure['value'] - figure['before']):+.1f}"
    return (
        entry.name,
        what,
        f"{entry.ratio[0]:.0%}",
        before,
        after,
        str(figure["n"]),
        change,
        format_p(rate["p"]),
        format_detectable(rate["detectable"]),
        f"{rate['old']:.0%} -> {rate['new']:.0%}",
    )


def paired(checks: list[dict], first: str) -> dict[str, dict[str, float | None]]:
    """By profession: p of no change in the first attribute, over pictures that show one before and after; how often it
    is drawn at all. `p` is None where too few pictures show one, `detectable` is the smallest change that its test
    finds.
    """
    from unconcept.metrics.paired_tests import detectable_change, holm, mcnemar
    from unconcept.worlds.table import concept_table

    known, found = concept_table(), {}
    variants = known.variants()
    for name in dict.fromkeys(check["concept"] for check in checks):
        sides = [(check["before"], check["after"]) for check in checks if check["concept"] == name]
        both = [pair for pair in sides if variants.keys() >= {*pair}]
        old, new = (shows_first(both, side, variants, first) for side in (0, 1))
        before, after = (share_within(sides, side, known[name].labels) for side in (0, 1))
        p = mcnemar(old, new).p if both else 1.0
        found[name] = {"p": p, "old": before, "new": after, "pairs": len(both)}
    corrected = holm({name: rate["p"] for name, rate in found.items()})
    for name, rate in found.items():
        pairs = rate.pop("pairs")
        rate["detectable"] = detectable_change(pairs, len(found)) if pairs else None
        rate["p"] = None if rate["detectable"] is None else corrected[name]
    return found


def shows_first(pairs: Sequence[tuple[str, str]], side: int, variants: Mapping[str, str], first: str) -> list[bool]:
    """Whether each picture shows the first attribute; `side` 0 is before."""
    return [variants[pair[side]] == first for pair in pairs]


def share_within(pairs: Sequence[tuple[str, str]], side: int, labels: Collection[str]) -> float:
    """Share of pictures whose label is one of some."""
    return sum(pair[side] in labels for pair in pairs) / len(pairs)


if __name__ == "__main__":
    main()
