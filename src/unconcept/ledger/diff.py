"""Compares two ledgers: requests in force, base, policy and settings."""

from typing import Any

from .ledger import Ledger


def compare_ledgers(first: Ledger, second: Ledger) -> dict[str, Any]:
    """Compare requests in force, base, family, policy and settings of two ledgers.

    Ledgers with the same base, requests and policy have the same state.
    """
    active = [_active_data(first), _active_data(second)]
    apart = {}
    for name in ("base", "family", "policy"):
        if first.first[name] != second.first[name]:
            apart[name] = [first.first[name], second.first[name]]
    ours, theirs = first.request_states.settings, second.request_states.settings
    for method in sorted(ours.keys() & theirs.keys()):
        if dict(ours[method]) != dict(theirs[method]):
            apart[f"settings of {method}"] = [dict(ours[method]), dict(theirs[method])]
    return {
        "same": not apart and active[0].keys() == active[1].keys(),
        "only_first": [active[0][id_] for id_ in sorted(active[0].keys() - active[1].keys())],
        "only_second": [active[1][id_] for id_ in sorted(active[1].keys() - active[0].keys())],
        "both": len(active[0].keys() & active[1].keys()),
        "apart": apart,
    }


def _active_data(ledger: Ledger) -> dict[str, dict[str, Any]]:
    return {one.id: one.data() for one in ledger.request_states.active}
