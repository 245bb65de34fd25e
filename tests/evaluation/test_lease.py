"""The lease of a shared store: one command at a time, whatever the file system."""

import json
import os
import subprocess
import sys
import threading

import pytest

from unconcept.core.errors import MissingExtra, OutputError, SettingsError
from unconcept.evaluation.tasks.shared_files import SharedFiles
from unconcept.evaluation.tasks.store_lease import store_lease


@pytest.fixture(params=["folder", "url"])
def files(request, tmp_path):
    return SharedFiles.at(tmp_path / "s" if request.param == "folder" else f"memory://{tmp_path.name}")


def test_one_command_writes_a_store_at_a_time(files) -> None:
    with store_lease(files) as name:
        assert files.read(name) is not None
        told = rf"is being written by process {os.getpid()} on .* wait until it ends"
        with pytest.raises(OutputError, match=told), store_lease(files):
            pass
    with store_lease(files):
        pass
    assert files.names("lease") == []


def test_of_many_that_start_at_once_never_two_have_it(files, monkeypatch) -> None:
    monkeypatch.setattr("unconcept.evaluation.tasks.store_lease.time.sleep", lambda seconds: None)
    inside, most, had = [], [], []

    def hold() -> None:
        try:
            with store_lease(files):
                inside.append(1)
                most.append(len(inside))
                threading.Event().wait(0.1)
                inside.pop()
                had.append(1)
        except OutputError:
            pass

    threads = [threading.Thread(target=hold) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) <= {1}
    assert files.names("lease") == []


def test_the_claim_of_a_dead_process_is_void(files) -> None:
    with store_lease(files) as name:
        claim = json.loads(files.read(name))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    files.write("lease/dead.json", json.dumps({**claim, "process": ended.pid, "held": True}).encode())
    files.write("lease/reused.json", json.dumps({**claim, "began": 1.0, "held": True}).encode())
    with store_lease(files) as name:
        assert files.names("lease") == [name]
    files.write("lease/far.json", json.dumps({**claim, "machine": "another", "host": "far", "held": True}).encode())
    with pytest.raises(OutputError, match="on far"), store_lease(files):
        pass


def test_a_claim_that_nobody_renews_is_void(files, monkeypatch) -> None:
    files.write("lease/far.json", b'{"machine": "another", "held": true}')
    monkeypatch.setattr("unconcept.evaluation.tasks.store_lease._LIFE", -1.0)
    with store_lease(files) as name:
        assert files.names("lease") == [name]


def test_places_that_cannot_be_used_are_one_line(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"store .*file: "), store_lease(SharedFiles.at(tmp_path / "file")):
        pass
    with pytest.raises(SettingsError, match=r"store nosuch://bucket/x: Protocol not known: nosuch; name a folder"):
        SharedFiles.at("nosuch://user:secret@bucket/x")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        MissingExtra, match=r"store gs://bucket/x: Please install gcsfs .*: install it, or name a folder"
    ):
        SharedFiles.at("gs://bucket/x")
