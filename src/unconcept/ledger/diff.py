"""What stands in one ledger and not in another."""

from typing import Any

from .ledger import Ledger


def compare_ledgers(first: Ledger, second: Ledger) -> dict[str, Any]:
    """Requests in force by ledger, and what else is not the same.

    Ledgers with the same requests and policy have the same state.
    """
    active = [{one.id: one.data() for one in each.request_states.active} for each in (first, second)]
    apart = {}
    for name in ("base", "family", "policy"):
        if first.first[name] != second.first[name]:
            apart[name] = [first.first[name], second.first[name]]
    settings = [
        {method: dict(known) for method, known in each.request_states.settings.items()} for each in (first, second)
    ]
    for method in sorted({*settings[0]} & {*settings[1]}):
        if settings[0][method] != settings[1][method]:
            apart[f"settings of {method}"] = [settings[0][method], settings[1][method]]
    return {
        "same": not apart and active[0].keys() == active[1].keys(),
        "only_first": [active[0][id_] for id_ in sorted(active[0].keys() - active[1].keys())],
        "only_second": [active[1][id_] for id_ in sorted(active[1].keys() - active[0].keys())],
        "both": len(active[0].keys() & active[1].keys()),
        "apart": apart,
    }
