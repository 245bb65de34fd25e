"""Tasks on a cluster whose machines come and go: the interface alone, with workers in this process."""

import pickle
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.evaluation.test_work import Touch, log
from unconcept.core.errors import UnconceptError
from unconcept.core.progress import ignore_progress
from unconcept.evaluation.sampling import DrawSpec
from unconcept.evaluation.tasks.cluster import MAX_LOSSES, ClusterExecutor
from unconcept.evaluation.tasks.draw import DrawTask
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.evaluation.tasks.runner import TaskRecord, run_tasks
from unconcept.evaluation.tasks.scratch_folder import ScratchFolder
from unconcept.evaluation.tasks.task_worker import TaskWorker
from unconcept.prompts.checks import Prompt


class Gone(Exception):
    """What this cluster says of a worker that is lost."""


@dataclass
class FakeCluster:
    """Workers in this process. What they are given passes through pickle, as on a wire."""

    size: int = 2
    kills: Callable[["FakeWorker", str], bool] = lambda worker, task: False
    lost: tuple[type[Exception], ...] = (Gone,)

    def __post_init__(self) -> None:
        self.workers: list[FakeWorker] = []

    def room(self) -> int:
        return self.size

    def start(self, setup) -> "FakeWorker":
        self.workers.append(FakeWorker(self, pickle.loads(pickle.dumps(setup))))
        return self.workers[-1]

    def share(self, data: bytes) -> Callable[[], bytes]:
        return lambda: data


class FakeWorker:
    """One worker, on a machine of its own number."""

    def __init__(self, cluster: FakeCluster, setup) -> None:
        self.cluster, self.alive, self.own = cluster, True, TaskWorker(setup)
        self.ran: list[str] = []

    def check(self) -> Future:
        return self._answer(self.own.check)

    def run(self, task, name, edit) -> Future:
        self.ran.append(name)
        if self.cluster.kills(self, name):
            self.alive = False
        return self._answer(lambda: self.own.run(pickle.loads(pickle.dumps(task)), name, edit))

    def close(self) -> Future:
        return self._answer(self.own.close)

    def stop(self) -> None:
        self.alive = False

    def _answer(self, make: Callable[[], object]) -> Future:
        future: Future = Future()
        if self.alive:
            future.set_result(make())
        else:
            future.set_exception(Gone("its process has died"))
        return future


@dataclass(frozen=True)
class Scored(Touch):
    """Scores one picture."""

    def is_done(self, store: PictureStore) -> bool:
        return bool(store.load_scores("judge", [(self.name, "q")]))

    def run(self, store: PictureStore) -> None:
        store.save_scores("judge", [(self.name, "q", {"is": self.name})])


@pytest.fixture
def place(tmp_path, monkeypatch) -> tuple[PictureStore, TaskRecord]:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("unconcept.evaluation.tasks.cluster._LOOK", 0.0)
    store = PictureStore(tmp_path / "s")
    (store.root / "lease").mkdir()
    (store.root / "lease" / "own.json").write_text("{}")
    return store, TaskRecord(tmp_path / "r.sqlite")


def run(tasks, place, cluster, most=None, told=ignore_progress, **more):
    executor = ClusterExecutor(cluster, "lease/own.json", most, told)
    try:
        return run_tasks(tasks, *place, executor=executor, **more)
    finally:
        executor.close()


def test_a_cluster_does_what_one_machine_does(place) -> None:
    tasks = [*(Touch(f"t{i}", broken=i == 3) for i in range(6)), *(Scored(f"s{i}") for i in range(3))]
    cluster = FakeCluster()
    tally = run(tasks, place, cluster)
    assert (tally.done, tally.failed) == (8, ("touch: ValueError: t3 is broken",))
    assert sorted(log(place[0])) == [f"t{i}" for i in range(6)]
    assert place[0].load_scores("judge", [("s1", "q")]) == {("s1", "q"): {"is": "s1"}}, "the command alone writes them"
    assert len(cluster.workers) == 2
    assert run(tasks[4:], place, FakeCluster(size=0)).done == 5, "nothing is left to do: no worker is waited for"


def test_what_is_lost_with_a_worker_runs_again(place) -> None:
    told = []
    cluster = FakeCluster(kills=lambda worker, task: task == "t1" and len(cluster.workers) == 2)
    tally = run([Touch(f"t{i}") for i in range(4)], place, cluster, told=lambda *given: told.append(given[0]))
    assert tally.done == 4
    assert sorted(log(place[0])) == ["t0", "t1", "t2", "t3"], "each is done once"
    assert len(cluster.workers) == 3, "another has taken its place"
    assert told.count("a worker was lost with a task (touch), which runs again") == 1


def test_a_task_that_kills_its_workers_is_given_up_and_the_others_go_on(place) -> None:
    cluster = FakeCluster(kills=lambda worker, task: task == "t1")
    tally = run([Touch(f"t{i}") for i in range(4)], place, cluster)
    assert tally.done == 3
    assert len(tally.failed) == 1
    assert f"{MAX_LOSSES} workers were lost with it one after the other" in tally.failed[0]


def test_a_lost_machine_costs_each_task_one_attempt_at_most(place) -> None:
    """Five workers on it wait when it goes with the sixth; were each tried in turn, the task would be given up."""

    def kills(worker: FakeWorker, task: str) -> bool:
        if task == "t6" and len(cluster.workers) == 6:
            cluster.size = 2
            for one in cluster.workers:
                one.stop()
        return not worker.alive

    cluster = FakeCluster(6, kills)
    assert run([Touch(f"t{i}") for i in range(7)], place, cluster).complete


def test_machines_that_join_are_used(place) -> None:
    def grows(worker: FakeWorker, task: str) -> bool:
        cluster.size = 3
        return False

    cluster = FakeCluster(1, grows)
    assert run([Touch(f"t{i}") for i in range(9)], place, cluster).complete
    assert len(cluster.workers) == 3
    capped = FakeCluster(8)
    assert run([Touch("x"), Touch("y"), Touch("z")], place, capped, most=2).complete
    assert len(capped.workers) == 2


def test_time_may_run_out(place) -> None:
    tally = run([Touch("a"), Touch("b")], place, FakeCluster(), deadline=time.monotonic() - 1)
    assert (tally.done, tally.left) == (0, 2)


@dataclass
class Started(FakeCluster):
    """Its workers are set up as `change` says."""

    change: dict = field(default_factory=dict)

    def start(self, setup):
        return super().start(replace(setup, **self.change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": "0.0.1"}, r"has unconcept .*, the command 0\.0\.1: install the same one"),
        ({"mark": "lease/other.json"}, r"does not see the store .*: name a --store that all nodes share"),
        ({"pictures": Path("/nowhere/pictures")}, r"does not see /nowhere/pictures: choose an --out in a folder"),
    ],
)
def test_a_machine_that_cannot_work_is_one_line(place, change, told) -> None:
    cluster = Started(change=change)
    with pytest.raises(UnconceptError, match=told):
        run([Touch("a"), Touch("b")], place, cluster)
    assert run([Touch("a"), Touch("b")], place, FakeCluster()).complete


def test_a_machine_that_computes_otherwise_is_one_line(place) -> None:
    """The name of a task is a hash of the model's files and its precision, as each machine has them."""

    @dataclass(frozen=True)
    class Elsewhere(Touch):
        def __reduce__(self):
            return Touch, (f"other-{self.name}",)

    with pytest.raises(UnconceptError, match="computes otherwise than the machine of the command"):
        run([Elsewhere("a")], place, FakeCluster())


def test_names_of_pictures_are_computed_where_they_are_drawn(place, monkeypatch) -> None:
    """Not sent: another model there would else draw under the names of this one."""

    def other_model(worker: FakeWorker, task: str) -> bool:
        monkeypatch.setattr(EditedModel, "key", "other")
        return False

    task = DrawTask(EditedModel(), DrawSpec(), (Prompt("a photo of a dog face", 1),))
    with pytest.raises(UnconceptError, match="computes otherwise than the machine of the command"):
        run([task], place, FakeCluster(kills=other_model))


def test_an_edit_travels_with_the_task(place, tmp_path, monkeypatch) -> None:
    """The worker has it in a folder of its own, one edit at a time."""
    seen = []
    monkeypatch.setattr(EditedModel, "key", "any")
    monkeypatch.setattr(
        DrawTask,
        "run",
        lambda self, store: seen.append((Path(self.subject.edit_path), Path(self.subject.edit_path).read_bytes())),
    )
    tasks = []
    for i in range(3):
        (tmp_path / f"{i}.safetensors").write_bytes(b"edit %d" % (i // 2))
        subject = EditedModel(edit_path=str(tmp_path / f"{i}.safetensors"), edit_hash=f"hash{i // 2}")
        tasks.append(DrawTask(subject, DrawSpec(), (Prompt("a photo of a dog face", i),)))
    run(tasks, place, FakeCluster(1))
    assert [content for _, content in seen] == [b"edit 0", b"edit 0", b"edit 1"]
    assert all(path.is_relative_to(tmp_path / "temporary") for path, _ in seen)
    assert not any(path.exists() for path, _ in seen)


def test_workers_that_die_while_they_start_end_the_run(place) -> None:
    class Dying(FakeCluster):
        def start(self, setup):
            made = super().start(setup)
            made.alive = False
            return made

    with pytest.raises(UnconceptError, match=r"3 workers of the cluster were lost while they started.*has died"):
        run([Touch("a")], place, Dying(1))


def test_folders_of_killed_workers_are_removed(tmp_path, monkeypatch) -> None:
    """A process that is killed leaves its folder, and a lock that nobody holds."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive, left, other = ScratchFolder.make("unconcept-worker-"), *(tmp_path / f"unconcept-worker-{i}" for i in "12")
    left.mkdir()
    (left / ".lock").touch()
    other.mkdir()
    own = ScratchFolder.make("unconcept-worker-")
    assert set(tmp_path.iterdir()) == {alive.path, other, own.path}, "what has no lock was made by someone else"
    assert own.path.stat().st_mode & 0o777 == 0o700
    own.remove()
    assert set(tmp_path.iterdir()) == {alive.path, other}
