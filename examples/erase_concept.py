"""Erase a concept from the embedded model, and read what pictures say of it."""

import unconcept

if __name__ == "__main__":
    outcome = unconcept.erase("dog face", limit=2, out="out/dog-face")
    print(outcome.out / "report.html", outcome.report.status)
    for group, row in outcome.report.data()["trials"][0]["groups"].items():
        print(f"{group}: {row['before']['value']:.0%} -> {row['after']['value']:.0%}")
    print(f"residual: {outcome.edit.origin.report['residual']:.3g}")
