"""How alike SPM's gate finds prompts to a concept, on tune concepts: `python -m benchmarks.likeness`.

Each given wording in turn is left out of the request, as a wording that nobody thought of; the gate's floor and ceiling
in the recipe of `moji` are chosen on these figures. No picture is drawn.
"""

from unconcept.cli.console import quiet_libraries

SHARES = (0.0, 0.05, 0.1, 0.5, 0.9, 0.95, 1.0)
ROWS = ("left-out wording", "near", "far")
PROMPTS = 28  # of a group


def main() -> None:
    quiet_libraries()
    import torch

    from unconcept.report.markdown import markdown_table
    from unconcept.worlds.table import concept_table

    found: dict[str, list[float]] = {row: [] for row in ROWS}
    for entry in concept_table().entries:
        if entry.split == "tune" and entry.erasable and entry.kind != "person":
            for wording in entry.synonyms.given:
                for row, values in likenesses(entry, wording).items():
                    found[row] += values
    lines = [("likeness of", "prompts", *(f"{share:.0%}" for share in SHARES)), ("---",) * (2 + len(SHARES))]
    for row, values in found.items():
        quantiles = torch.tensor(values).quantile(torch.tensor(SHARES)).tolist()
        lines.append((row, str(len(values)), *(f"{value:.2f}" for value in quantiles)))
    print(markdown_table(lines))


def likenesses(entry, wording: str) -> dict[str, list[float]]:
    """The likenesses of prompts to a request that lacks one wording, by row."""
    import torch

    from unconcept.core.request import RequestSpec
    from unconcept.edits.gating import PromptLikeness, content_token_ids
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.worlds import world_of
    from unconcept.prompts.checks import GroupSizes, moji_checks
    from unconcept.worlds.table import concept_table

    model = EditedModel().base()
    targets = world_of(model.name).request(RequestSpec((entry.name,))).request.targets
    asked = tuple(text for text in targets if wording not in text) or (entry.name,)
    checks = moji_checks(concept_table(), (entry.name,), GroupSizes(PROMPTS, PROMPTS, tuning=True))
    groups = {"left-out wording": ("synonym",), "near": ("near",), "far": ("far", "style")}
    found = {}
    with torch.no_grad():
        own = model.condition(asked).states
        own_tokens = [content_token_ids(model, ids) for ids in model.tokenizer(asked).ids]
        for row, names in groups.items():
            texts = {check.prompt.text for check in checks if check.group in names}
            texts = sorted(text for text in texts if row != "left-out wording" or wording in text)
            if texts:
                tokens = [content_token_ids(model, ids) for ids in model.tokenizer(texts).ids]
                states = model.condition(texts).states
                found[row] = PromptLikeness()(states, tokens, own, own_tokens).tolist()
    return found


if __name__ == "__main__":
    main()
