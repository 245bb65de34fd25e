"""A run that was cut short publishes no table."""

import sys
from collections.abc import Iterable

from unconcept.cli.console import EXIT_FAILED


def whole_or_exit(reports: Iterable) -> None:
    """Exit with code 1 if anything failed or is missing, and say so: the same command goes on from there.

    An edit that breaks the model is a result like any other: it is said, and published.
    """
    from unconcept.erasing.failure_checks import COLLAPSE_PREFIX

    reports = list(reports)
    for failure in (failure for report in reports for failure in report.failures):
        print(f"FAILED: {failure}", file=sys.stderr)
    missing = sum(report.missing for report in reports)
    if missing:
        print(f"PARTIAL: {missing} planned results are missing; the same command goes on from here", file=sys.stderr)
    if missing or any(COLLAPSE_PREFIX not in failure for report in reports for failure in report.failures):
        raise SystemExit(EXIT_FAILED)
