"""What a repair of a method changed, on tune concepts: `python -m benchmarks.repairs spm --label after`.

Measures each method's recipe for `moji` and keeps the counts under the label; then writes the page from all counts.
Without a method it only writes the page. Rows named "before" were measured by this file on the commit before a repair.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from unconcept.cli.console import quiet_libraries

RECORD = Path(__file__).with_name("repairs.json")
CONCEPTS = ("guitar", "horse face", "twemoji", "classic")  # two objects and both styles of the split tune
GROUPS = {
    "direct": "target",
    "co-occurring": "objects beside it",
    "synonym": "held-out synonyms",
    "far": "far objects",
    "style": "other styles",
}
PICTURES, STEPS = 28, 12  # of a group, if a row names no others; fewer steps than usual, so that a row takes a minute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    parser.add_argument("--label", default="after", help="name of the row")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="setting, as JSON")
    parser.add_argument("--concepts", default=",".join(CONCEPTS), help="tune concepts, separated by commas")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="of a group; 14 of both styles are 28 too")
    parser.add_argument("--steps", type=int, default=STEPS, help="sampling steps")
    parser.add_argument("--out", type=Path, default=Path("out/repairs"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    quiet_libraries()
    from unconcept.evaluation.tasks.edit_task import variant_of_method

    settings = {name: json.loads(value) for name, _, value in (each.partition("=") for each in args.set)}
    for method in args.methods:
        for concept in args.concepts.split(","):
            if concept not in CONCEPTS:
                parser.error(f"{concept!r}: settings are chosen on {', '.join(CONCEPTS)} alone")
            variant = variant_of_method(method).changed(method, settings)
            keep(method, args.label, concept, measured(variant, concept, args.pictures, args.steps, args.out))
    (args.docs / "repairs.md").write_text(page(), encoding="utf-8")


def measured(variant, concept: str, pictures_of_group: int, steps: int, out: Path) -> dict[str, list[int]]:
    """Make one edit and draw with it; count the pictures of each group that show what was asked for, of how many."""
    from unconcept.core.output_folder import default_store
    from unconcept.edits import load_edit
    from unconcept.evaluation.judging.rates import judge_labels
    from unconcept.evaluation.sampling import draw_prompts
    from unconcept.evaluation.suites.registry import suites
    from unconcept.evaluation.tasks.edit_task import EditTask
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.tasks.picture_store import PictureStore
    from unconcept.evaluation.worlds import world_of

    world, subject = world_of("moji"), EditedModel()
    task = EditTask(subject, variant, (concept,), out)
    out.mkdir(parents=True, exist_ok=True)
    task.run(PictureStore(default_store()))
    checks, model = asked(suites["tuning"], pictures_of_group).checks((concept,)), subject.base()
    prompts = list(dict.fromkeys(check.prompt for check in checks))
    spec = replace(world.draw_spec(None), steps=steps)
    with load_edit(task.path).applied(model):
        pictures = dict(zip(prompts, draw_prompts(model, prompts, spec), strict=True))
    words = judge_labels(world.judge, checks, pictures)
    found = {}
    for group in GROUPS:
        hits = [word in check.labels for word, check in zip(words, checks, strict=True) if check.group == group]
        found[group] = [sum(hits), len(hits)]
    save_sheet(list(pictures.values()), out / f"{variant.label} {concept}.png")
    print(variant.label, concept, found, flush=True)
    return found


def save_sheet(pictures, path: Path) -> None:
    """All pictures in rows of 14, to be looked at."""
    import torch
    from PIL import Image

    rows = [torch.cat(pictures[i : i + 14], 2) for i in range(0, len(pictures) - len(pictures) % 14, 14)]
    sheet = (torch.cat(rows, 1).permute(1, 2, 0) * 255).round().to(torch.uint8)
    Image.fromarray(sheet.numpy()).save(path)


def asked(suite, pictures: int):
    """The suite for tuning with enough prompts, in the groups of the table alone, its synonyms the held-out ones."""
    from unconcept.prompts.checks import GroupSizes

    def checks(names, sizes):
        found = [held_out(check, names[0]) for check in suite.ask(names, sizes) if check.group in GROUPS]
        return found + [beside_style(check) for check in found if check.group == "direct" and check.by == "style"]

    return replace(suite, sizes=GroupSizes(pictures, pictures, tuning=True), ask=checks)


def beside_style(check):
    """The question whether the picture of a style shows its object, which is to stay."""
    from unconcept.worlds.table import concept_table

    shown = [entry for entry in concept_table().entries if entry.kind != "style" and entry.name in check.prompt.text]
    entry = max(shown, key=lambda entry: len(entry.name))
    return replace(check, group="co-occurring", concept=entry.name, by="object", labels=entry.labels)


def held_out(check, concept: str):
    """A check that names the concept by a word that no request holds; any other check as it is."""
    from unconcept.worlds.table import concept_table

    words = concept_table()[concept].synonyms
    known = next((word for word in sorted(words.given, key=len)[::-1] if word in check.prompt.text), None)
    if check.group != "synonym" or known is None:
        return check
    other = words.held_out[words.given.index(known) % len(words.held_out)]
    return replace(check, prompt=replace(check.prompt, text=check.prompt.text.replace(known, other)))


def keep(method: str, label: str, concept: str, counts: dict[str, list[int]]) -> None:
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    known.setdefault(method, {}).setdefault(label, {})[concept] = counts
    RECORD.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def page() -> str:
    """The table of all counts."""
    from unconcept.report.markdown import markdown_table

    known = json.loads(RECORD.read_text(encoding="utf-8"))
    heads = ("method", "concept", "", *GROUPS.values())
    lines = [heads, ("---",) * len(heads)]
    for method, rows in known.items():
        for concept in CONCEPTS:
            lines += [
                (method, concept, label, *cells(rows[label][concept])) for label in rows if concept in rows[label]
            ]
    return f"""# Repairs of methods, on tune concepts

Pictures that show what the prompt asks for, of {PICTURES} in a group (seeds below 1,000,000), by moji-judge, with the
recipe of `moji`, in {STEPS} steps, if the row names no others. "before" is the version before the repair; what was
repaired stands in CHANGELOG.md. Rows of few-shot, spm and concept-ablation in {STEPS} steps were trained for as many
steps as before the repair, when a style had no more than an object; spm's are of one training. "after" of other rows is
the recipe as it was when the row was measured: its budget grows with the targets, so a style's is 4.5 times an
object's, if the row names no trained steps. Settings are chosen on these concepts, so the rows show what a repair does
and rank no methods.

- SLUG leaves objects since it asks no judge that grades it: the judge's look had set its step. A third judge, for
  methods that see, is to bring the look back. Styles go without it.
- Steps that grow with a style's targets help KSCU, SPM and Sculpting Memory. They harm other styles under ESD,
  AdvUnlearn and Concept Ablation: these recipes name 104, 54 and 153 steps for a style's eighteen texts. Under few-shot
  they destroy the model; its recipe has a third of the rate for styles.
- UCE's debiasing has no row: the repair is a default, and the recipe of `moji` names its own value, as before.

Made by `python -m benchmarks.repairs`.

{markdown_table(lines)}"""


def cells(counts: dict[str, list[int]]) -> list[str]:
    return [f"{counts[group][0]} of {counts[group][1]}" if counts.get(group, [0, 0])[1] else "" for group in GROUPS]


if __name__ == "__main__":
    main()
