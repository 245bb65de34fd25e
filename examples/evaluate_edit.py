"""Ask an edit the questions of a suite, then attack it; the unedited model is asked the same."""

import unconcept

if __name__ == "__main__":
    edit = unconcept.erase("pizza", method="speed", report=False, out="out/pizza").edit
    report = unconcept.evaluate("pizza", edits=edit, suite="smoke", limit=1, out="out/pizza-smoke")
    for group, row in report.data()["trials"][0]["groups"].items():
        print(f"{group}: {row['after']['value']:.0%} of {row['after']['n']} pictures")
    report = unconcept.attack("pizza", name="wordings", edits=edit, limit=1, out="out/pizza-attacked")
    for row in report.data()["trials"][0]["attacks"]:
        print(f"{row['attack']}: {row['success']['value']:.0%} of {row['success']['n']} prompts")
