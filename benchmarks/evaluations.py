"""The published suites on `moji`, edit by edit: `make evaluations`, or some of them,
`python -m benchmarks.evaluations --methods uce --suites hub,damage`.

Each trial of a suite's half is kept in the repository once it is finished (`benchmarks.kept_trials`), so the same
command goes on after being stopped, on another machine too. Hours and pictures are printed first; `--from-kept` only
writes the page.
"""

from pathlib import Path

from benchmarks.evaluation_suites import PROTOCOLS, Protocol
from benchmarks.evaluations_page import Found, page
from benchmarks.kept import FOLDER, present_basis
from benchmarks.measuring import measure, page_parser
from benchmarks.variants import HEADLINE, rivals
from unconcept.cli.console import quiet_libraries

OUT = Path("out/evaluations")


def found_of(protocol: Protocol, folder: Path = FOLDER) -> tuple[Found, list[str]]:
    """The kept trials of a suite that were made as they would be made now; a line on each part that is left out."""
    halves, stale = [], list[str]()
    for table in protocol.tables(rivals, folder):
        trials, others = table.found()
        halves.append(tuple(trials))
        stale += [f"{protocol.suite}, {line}" for line in others]
    return Found(protocol, tuple(halves), HEADLINE), stale


def write_page(docs: Path, folder: Path = FOLDER) -> None:
    """Write docs/evaluations.md of all kept trials."""
    found = [found_of(protocol, folder) for protocol in PROTOCOLS]
    text = page(present_basis(), [one for one, _ in found], [line for _, lines in found for line in lines])
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "evaluations.md").write_text(text, encoding="utf-8")


def main() -> None:
    known = {protocol.suite: protocol for protocol in PROTOCOLS}
    parser = page_parser(__doc__, OUT)
    parser.add_argument("--suites", default=",".join(known), help="separated by commas; every one by default")
    parser.add_argument(
        "--methods", default=",".join(HEADLINE), help=f"separated by commas, or all; {', '.join(HEADLINE)} by default"
    )
    args = parser.parse_args()
    asked = args.suites.split(",")
    if unknown := set(asked) - known.keys():
        parser.error(f"no suite {min(unknown)!r}: allowed are {', '.join(known)}")
    quiet_libraries()
    if not args.from_kept:
        tables = [table for name in asked for table in known[name].tables(rivals, args.kept)]
        measure(tables, None if args.methods == "all" else args.methods, args.max_minutes, args.out)
    write_page(args.docs, args.kept)


if __name__ == "__main__":
    main()
