"""Two commands on one output: the second is refused and learns who holds it; nothing of the lock stays behind."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unconcept.core.errors import OutputError, WorkerError
from unconcept.core.output_folder import atomic_folder, output_file
from unconcept.core.output_lock import output_lock

HOLDER = """
import sys, time
from pathlib import Path
from unconcept.core.output_lock import output_lock

with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes `o`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "o"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def write(out: Path, text: str = "x") -> None:
    with atomic_folder(out, {"it": text}, overwrite=True) as folder:
        (folder / "a").write_text(text)


def test_the_second_learns_who_holds_it_and_a_killed_holder_holds_nothing(holder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "o", Path("o"), Path("x/../o")):
        said = rf"is being written by process {holder.pid} \(`-c .*`, since 20\d\d-.*\): wait until it ends"
        with pytest.raises(OutputError, match=said):
            write(out)
        with pytest.raises(OutputError, match=said), output_file(out, True):
            raise AssertionError
    write(tmp_path / "other")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    write(tmp_path / "o")
    assert {path.name for path in tmp_path.iterdir()} == {"o", "other"}


def test_a_job_enters_its_own_lock_and_a_thread_beside_it_does_not(tmp_path) -> None:
    refused = []

    def intrude() -> None:
        try:
            write(tmp_path / "o", "intruder")
        except OutputError as error:
            refused.append(str(error))

    with output_lock(tmp_path / "o"):
        write(tmp_path / "o", "mine")
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in refused[0]
    assert (tmp_path / "o/a").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_a_lock_leaves_no_folder_that_it_needed(tmp_path) -> None:
    with output_lock(tmp_path / "a/b/o"):
        assert (tmp_path / "a/b").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="file cannot be written: choose another path"),
        output_lock(tmp_path / "file/o"),
    ):
        raise AssertionError


def test_a_damaged_record_names_nobody(tmp_path) -> None:
    with output_lock(tmp_path / "o"):
        (tmp_path / ".o.lock").write_bytes(b"\xff")
        refused = []
        thread = threading.Thread(target=lambda: refused.extend(_refusal(tmp_path / "o")))
        thread.start()
        thread.join()
    assert "by another process: wait" in refused[0]


def test_a_record_names_no_person(tmp_path, monkeypatch) -> None:
    """A killed `ledger materialize` leaves it beside what ships."""
    words = ["ledger", "materialize", "l", "--by", "Zoe", "--because=Yan", "--recorded-by", "Zoe", "--out", "o"]
    monkeypatch.setattr("sys.argv", ["/bin/unconcept", *words])
    with output_lock(tmp_path / "o"):
        record = json.loads((tmp_path / ".o.lock").read_bytes())
    told = "unconcept ledger materialize l --by ... --because=... --recorded-by ... --out o"
    assert record["command"] == told


def _refusal(out: Path) -> list[str]:
    try:
        write(out)
    except OutputError as error:
        return [str(error)]
    return []


def test_a_dead_worker_leaves_the_state_of_the_run(tmp_path) -> None:
    def run() -> None:
        with atomic_folder(tmp_path / "o", {"it": 1}, overwrite=False) as folder:
            (folder / "a").write_text("done")
            raise WorkerError

    with pytest.raises(WorkerError):
        run()
    with atomic_folder(tmp_path / "o", {"it": 1}, overwrite=False) as folder:
        assert (folder / "a").read_text() == "done"
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
