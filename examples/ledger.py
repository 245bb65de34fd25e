"""Requests one by one, one of them taken back: the state is that of those in force, in any order."""

from pathlib import Path

from unconcept.jobs.ledger import add, init, materialize, revoke
from unconcept.jobs.ledger_options import AddOptions, InitOptions, MaterializeOptions, RevokeOptions

if __name__ == "__main__":
    folder = Path("requests")
    init(InitOptions(folder=folder, model="moji", method="uce", by="legal"))
    dog = add(AddOptions("dog face", folder=folder, because="request 1"))
    add(AddOptions("pizza", folder=folder, because="request 2"))
    revoke(RevokeOptions(folder=folder, id=dog.id, because="withdrawn"))
    card = materialize(MaterializeOptions(folder=folder, out=Path("out/state")))
    print(f"{len(card['in_force'])} in force, edit {card['edit']['hash'][:12]}")
