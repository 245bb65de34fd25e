"""The page of `benchmarks.classifiers`: figures over seeds, and the shapes that the papers lead one to expect."""

from collections.abc import Sequence

from . import classifier_claims
from .classifier_claims import Found, of, table
from .classifier_data import DIGITS, DRAWINGS, OBJECTS
from .classifier_figures import MOST_RELEARNING_STEPS

NETWORKS, METHODS = ("vit", "cnn"), ("gs-lora", "gs-lora-plus", "stochastic-teacher", "noisy-gd")
_HEAD = """# Classifiers

Methods whose papers forget classes or train classifiers, in that setting: made by `python -m benchmarks.classifiers`
(extra `classifiers`), {seconds:.0f} seconds of one core. A figure is the mean of the seeds that were run, with the
least and the most in brackets. Not tried: faces, detection, ImageNet, and any larger network.

Data: scikit-learn's 1,797 digits (8x8, 70 % to train with), and {objects} objects of `moji` as classes ({names}), drawn
by eight styles and placed at random on even backgrounds (32x32; test images are other placements of the same drawings).
Networks: `vit`, three transformer blocks of width 32, and `cnn`, three convolutions. Settings are in
`benchmarks/classifier_trials.py`; none was tuned. Those of GS-LoRA are of a row on group sparsity, alpha 0.01 after a
warm-up. Noisy gradient descent deletes records, and is not made to forget classes.
"""


def page(found: Found, seconds: float, missing: int) -> str:
    """The whole page, of what is measured so far."""
    head = _HEAD.format(seconds=seconds, objects=len(OBJECTS), names=", ".join(OBJECTS))
    if missing:
        head += f"\n**Not measured yet: {missing} of {missing + len(found)} trials.** The command goes on with them.\n"
    parts = [
        head,
        classifier_claims.section(found),
        _sequences(found),
        _leftovers(found),
        _sparsity(found),
        _teacher(found),
    ]
    return "\n".join([*parts, _dom(found), _erasing(found), _deletion(found)])


def share(values: Sequence[float | None]) -> str:
    """Percent over seeds."""
    own = [100 * value for value in values if value is not None]
    if not own:
        return ""
    spread = f" ({min(own):.1f}-{max(own):.1f})" if len(own) > 1 else ""
    return f"{sum(own) / len(own):.1f}{spread}"


def number(values: Sequence[float]) -> str:
    spread = f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.2f}{spread}" if values else ""


def _sequences(found: Found) -> str:
    rows = []
    for data in (DIGITS, DRAWINGS):
        for network in NETWORKS:
            base = of(found, f"base/{data}/{network}/")
            if base:
                rows.append(
                    [
                        data,
                        network,
                        "before",
                        "",
                        share([b["sequence"] for b in base]),
                        "",
                        "",
                        share([b["all"] for b in base]),
                    ]
                )
            for method in METHODS:
                rows += _tasks(of(found, f"sequence/{method}/{data}/{network}/"), [data, network, method])
    head = ("data", "network", "method", "request", "forgotten now", "forgotten earlier", "remaining", "all classes")
    return (
        "\n## One request after another\n\nAccuracy on test images, percent. What is forgotten should be at 0.\n\n"
        + table(head, rows)
    )


def _tasks(seeds: Sequence[dict], row: Sequence[str]) -> list[list[str]]:
    if not seeds:
        return []
    if "refused" in seeds[0]:
        return [[*row, "", f"n/a: {seeds[0]['refused']}", "", "", ""]]
    kinds = ("forgotten", "earlier", "remaining", "all")
    return [
        [*row, str(task + 1), *(share([own["tasks"][task][kind] for own in seeds]) for kind in kinds)]
        for task in range(len(seeds[0]["tasks"]))
    ]


def _leftovers(found: Found) -> str:
    rows = []
    for data in (DIGITS, DRAWINGS):
        for network in NETWORKS:
            base = of(found, f"base/{data}/{network}/")
            trials = {"never saw the classes": [own["retrained"] for own in base]}
            for method in METHODS:
                seeds = of(found, f"sequence/{method}/{data}/{network}/")
                trials[method] = [own["end"] for own in seeds if "end" in own]
            for name, ends in trials.items():
                if ends:
                    figures = [number([own[kind] for own in ends]) for kind in ("membership", "relearning")]
                    rows.append([data, network, name, *figures, share([own["probe"] for own in ends])])
    text = f"""
## What is left after the last request

Membership: how often the loss on a forgotten training image is below that on a test image of the same classes (0.5
tells nothing). Relearning: steps of Adam until 80 % of the forgotten test images are right again, at most
{MOST_RELEARNING_STEPS}. Probe: accuracy, over all classes, of a linear map learned anew on the features; where it is
high, the features still tell the forgotten classes apart.

"""
    return text + table(("data", "network", "method", "membership", "relearning steps", "probe, percent"), rows)


def _sparsity(found: Found) -> str:
    rows = []
    for name, own in found.items():
        if name.startswith("sparsity/"):
            _, alpha, warm_up = name.split("/")
            tasks = [
                " / ".join(
                    f"{100 * task[kind]:.1f}"
                    for kind in ("forgotten", "remaining", "earlier")
                    if task[kind] is not None
                )
                for task in own["tasks"]
            ]
            rows.append([alpha, warm_up, *tasks, " ".join(f"{task['used']:.0f}" for task in own["tasks"])])
    text = """
## GS-LoRA: the weight of group sparsity

Six residual blocks on digits, requests 3, 7, 1; accuracy on the forgotten, the remaining and the earlier forgotten
classes, and how many of the six blocks have a change above 2 % of the largest. One seed.

"""
    return text + table(("alpha", "epochs without it", "request 1", "request 2", "request 3", "blocks used"), rows)


def _teacher(found: Found) -> str:
    rows = []
    for name, own in found.items():
        if name.startswith("teacher/"):
            phases = [
                " / ".join(f"{100 * value:.1f}" for value in own[p])
                for p in ("base", "retrained", "erased", "repaired")
            ]
            losses = [
                " / ".join(f"{value:.2f}" for value in own["records"][p]) for p in ("before", "retrained", "after")
            ]
            rows.append([name.partition("/")[2], *phases, *losses])
    text = """
## Stochastic teacher: before and after the repair

A small MLP, class 3: accuracy on the forgotten / the other classes, after an epoch of erasing and one of repairing.
Then a tenth of the training images, drawn at random, is forgotten: mean loss on them / on test images.

"""
    head = ("seed", "before", "retrained", "erased", "repaired", "records: before", "retrained", "after")
    return text + table(head, rows)


def _dom(found: Found) -> str:
    rows = []
    for kind in ("natural", "robust"):
        for form in ("plain", "remove", "augment"):
            own = of(found, f"dom/{form}/{kind}/")
            if own:
                gap = [each["best"] - each["last"] for each in own]
                figures = [share([each[n] for each in own]) for n in ("best", "last")]
                rows.append([kind, form, *figures, share(gap), share([each["learned"] for each in own])])
    text = """
## DOM: overfitting

150 digits, an MLP, 120 epochs, DOM from the 60th on at a loss of 0.2; robust: trained with and tested against five
steps of PGD within 0.1, at the same threshold (the paper's for PGD is higher). Images are augmented by noise. Last
column: share of the training images whose loss is below 0.2 at the end.

"""
    return text + table(("training", "DOM", "best", "last", "best - last", "learned"), rows)


def _erasing(found: Found) -> str:
    rows = [
        [p, *(share([own[kind] for own in of(found, f"erasing/{p}/")]) for kind in ("whole", "holed"))]
        for p in ("0", "0.5")
    ]
    text = (
        "\n## Random Erasing\n\n300 digits, the `cnn`; accuracy on whole test images and on those with a 3x3 hole.\n\n"
    )
    return text + table(("p", "whole", "with a hole"), rows)


def _deletion(found: Found) -> str:
    rows = []
    for own in found.get("deletion", {}).get("rows", ()):
        right = " ".join(f"{100 * value:.1f}" for value in own["right"])
        bounds = [" ".join(f"{value:.3g}" for value in own[kind]) for kind in ("deletion", "adaptive")]
        rows.append([f"{own['sigma']:g}", right, f"{own['learning']:.3g}", *bounds])
    text = """
## Noisy gradient descent: where a bound holds

A linear model of the digits learns in 1,000 steps; then a hundred records are replaced by one that says nothing, and
it goes on for 1, 50, 200 or 500 steps. The bounds hold because the loss is convex (Huber's: a clipped squared error),
every record's features are at most 1 long, lamb > 0, eta <= 2 / (beta + 2 lamb), every step is on all records, nothing
but the weights is kept, and the noise is fresh. They are for one record, delta 1e-5, and for a requester who saw no
release; the last column is for one who saw one, at delta 3e-5, where the bound on learning is below 20. For the
networks above, and for any diffusion model, no bound holds and none is printed. Accuracy with fresh noise differs a
little from run to run.

"""
    head = ("sigma", "accuracy: learned, then after each", "epsilon of learning", "epsilon of deletion", "adaptive")
    return text + table(head, rows)
