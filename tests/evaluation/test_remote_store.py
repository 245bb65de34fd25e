"""A store at a URL: several machines see the same pictures and scores, each once."""

import json
import multiprocessing
import pickle
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
import torch

from tests.evaluation.test_cluster import FakeCluster
from tests.evaluation.test_work import Touch
from unconcept.core.errors import OutputError, SettingsError, StoreError
from unconcept.core.output_folder import STORE_VARIABLE, default_store
from unconcept.evaluation.tasks.cluster import ClusterExecutor
from unconcept.evaluation.tasks.picture_store import FORMAT_FILE, PictureStore
from unconcept.evaluation.tasks.runner import TaskRecord, run_tasks
from unconcept.evaluation.tasks.shared_files import SharedFiles
from unconcept.jobs.places.stores import run_store

PICTURE = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0)).float() / 255


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of an object store that runs here."""
    moto = pytest.importorskip("moto.server", reason="pip install 'unconcept[ray-test]'")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    kept = dict(fsspec.config.conf)
    fsspec.config.conf["s3"] = {"endpoint_url": f"http://{host}:{port}", "key": "any", "secret": "any"}
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("pictures-of-runs")
    yield "s3://pictures-of-runs"
    fsspec.config.conf.clear()
    fsspec.config.conf.update(kept)
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "object store"])
def url(request) -> str:
    place = "memory://runs" if request.param == "memory" else request.getfixturevalue("bucket")
    return f"{place}/{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Machine:
    """One machine: where it keeps its own copies."""

    home: Path
    patch: pytest.MonkeyPatch

    @contextmanager
    def store(self, url: str) -> Iterator[PictureStore]:
        self.patch.setenv(STORE_VARIABLE, str(self.home))
        with run_store(url, self.home, keeps=True) as opened:
            yield opened


@pytest.fixture
def machines(tmp_path, monkeypatch) -> tuple[Machine, Machine]:
    return Machine(tmp_path / "one", monkeypatch), Machine(tmp_path / "two", monkeypatch)


@dataclass(frozen=True)
class Drawn(Touch):
    """Draws and scores a picture, and leaves a result of two files."""

    def result(self, store: PictureStore) -> Path:
        return store.root / "attacks" / f"{self.name}.json"

    def is_done(self, store: PictureStore) -> bool:
        return store.has(self.name) and store.has_result(self.result(store))

    def run(self, store: PictureStore) -> None:
        assert not self.is_done(store), "nothing is drawn twice"
        store.save(self.name, PICTURE)
        store.save_scores("judge", [(self.name, "q", {"is": self.name})])
        path = self.result(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{self.name}-more.bin").write_bytes(b"more")
        path.write_text(self.name)
        store.share_result(path)


TASKS = [Drawn(f"ab{i}") for i in range(4)]


def require_all(store: PictureStore) -> None:
    assert all(task.is_done(store) for task in TASKS)
    assert all(torch.equal(store.load(task.name), PICTURE) for task in TASKS)
    assert {p for p, _ in store.load_scores("judge", [(task.name, "q") for task in TASKS])} == {t.name for t in TASKS}
    assert all(task.result(store).with_name(f"{task.name}-more.bin").read_bytes() == b"more" for task in TASKS)


def test_what_one_machine_made_another_has(url, machines, tmp_path) -> None:
    one, two = machines
    with one.store(url) as store:
        assert run_tasks(TASKS, store, TaskRecord(tmp_path / "r1")).done == 4
        require_all(store)
    with two.store(url) as store:
        assert run_tasks(TASKS, store, TaskRecord(tmp_path / "r2")).done == 4, "it would fail if one were drawn again"
        require_all(store)
    with one.store(url) as store:
        require_all(store)


def test_workers_of_a_cluster_fill_it(url, machines, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("unconcept.evaluation.tasks.cluster._LOOK", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cluster = FakeCluster(kills=lambda worker, task: task == "ab1" and len(cluster.workers) == 2)
    with machines[0].store(url) as store:
        executor = ClusterExecutor(cluster, FORMAT_FILE, None, lambda *told: None)
        assert run_tasks(TASKS, store, TaskRecord(tmp_path / "r"), executor=executor).complete
        executor.close()
        require_all(store)
    with machines[1].store(url) as store:
        require_all(store)


@pytest.fixture
def nearby() -> str:
    return f"memory://runs/{uuid.uuid4().hex}"


def test_worker_processes_of_one_machine_fill_it(nearby, machines, tmp_path, monkeypatch) -> None:
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    with machines[0].store(nearby) as store:
        assert run_tasks(TASKS, store, TaskRecord(tmp_path / "r"), workers=2).complete
    with machines[1].store(nearby) as store:
        require_all(store)


def test_what_a_machine_has_comes_back_to_an_emptied_url(nearby, machines, tmp_path) -> None:
    with machines[0].store(nearby) as store:
        run_tasks(TASKS, store, TaskRecord(tmp_path / "r"))
    files = SharedFiles.at(nearby)
    for name in files.names():
        if not name.startswith("scores/"):
            files.remove(name)
    with machines[0].store(nearby) as store:
        require_all(store)
    with machines[1].store(nearby) as store:
        require_all(store)


def test_two_commands_do_not_write_it_at_once(nearby, machines) -> None:
    told = "is being written by process"
    with machines[0].store(nearby), pytest.raises(OutputError, match=told), machines[1].store(nearby):
        pass


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_of_it_is_unpickled_or_written_elsewhere(nearby, machines, tmp_path) -> None:
    files, sprung = SharedFiles.at(nearby), tmp_path / "sprung"
    files.write("scores/trap.jsonl", pickle.dumps(Trap(sprung)))
    with pytest.raises(StoreError, match=r"scores/trap\.jsonl holds no scores: remove it"), machines[0].store(nearby):
        pass
    files.remove("scores/trap.jsonl")
    for name in ("scores/.hidden.jsonl", "attacks/ab1-.. /x", "attacks/ab1/../../../../out", "other/x"):
        files.write(name, b"[]")
    files.write("attacks/ab1.json", b"{}")
    with machines[0].store(nearby) as store:
        assert store.has_result(Drawn("ab1").result(store))
        assert sorted(path.name for path in (store.root / "attacks").rglob("*")) == ["ab1.json"]
    assert not sprung.exists()


def test_other_formats_and_places_that_refuse_are_one_line(nearby, machines, tmp_path, monkeypatch) -> None:
    SharedFiles.at(nearby).write(FORMAT_FILE, json.dumps({"format": 99}).encode())
    with pytest.raises(StoreError, match=rf"store {nearby} has format 99"), machines[0].store(nearby):
        pass
    with pytest.raises(SettingsError, match="do not stay, but at a URL they would"), run_store(nearby, tmp_path, False):
        pass

    def refuse(self, path, data, **more) -> None:
        raise PermissionError("read-only bucket")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refuse)
    told = rf"store {nearby}: read-only bucket; name a --store"
    with pytest.raises(OutputError, match=told), machines[0].store(nearby):
        pass
    monkeypatch.setenv(STORE_VARIABLE, "s3://bucket")
    with pytest.raises(OutputError, match="it is a folder; bench, evaluate, attack and worst-case take a URL"):
        default_store()
