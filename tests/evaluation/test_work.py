"""Tasks: done once, in this process or in workers, recorded, gone on with."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from unconcept.core.errors import OutputError, WorkerError
from unconcept.core.progress import task_progress
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.evaluation.tasks.runner import MAX_TASK_ATTEMPTS, TaskRecord, default_workers, run_tasks


@dataclass(frozen=True)
class Touch:
    """Leaves one file in the store, and a line for each time it ran."""

    name: str
    broken: bool = False
    kind: str = "touch"

    @property
    def id(self) -> str:
        return self.name

    @property
    def size(self) -> int:
        return 1

    def is_done(self, store: PictureStore) -> bool:
        return (store.root / self.name).exists()

    def run(self, store: PictureStore) -> None:
        with (store.root / "log").open("a") as log:
            log.write(f"{self.name} {os.getpid()}\n")
        if self.broken:
            raise ValueError(f"{self.name} is broken")
        (store.root / self.name).write_text("")


def log(store: PictureStore) -> list[str]:
    path = store.root / "log"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def place(tmp_path) -> tuple[PictureStore, TaskRecord]:
    return PictureStore(tmp_path / "s"), TaskRecord(tmp_path / "r.sqlite")


def test_nothing_is_done_twice(place) -> None:
    tasks = [Touch(f"t{i}") for i in range(5)]
    assert run_tasks(tasks[:2], *place).done == 2
    told = []
    tally = run_tasks(tasks, *place, tell=lambda *given: told.append(given))
    assert (tally.done, tally.complete) == (5, True)
    assert log(place[0]) == ["t0", "t1", "t2", "t3", "t4"]
    assert told == [("touch", n, 5) for n in (3, 4, 5)]


@dataclass(frozen=True)
class Telling(Touch):
    """Two units of work, of which it tells in quarters, with a stage of its own."""

    @property
    def size(self) -> int:
        return 2

    def run(self, store: PictureStore) -> None:
        for quarter in range(4):
            task_progress().tick(0.5)
            task_progress().tell("inside", quarter, 4)
        super().run(store)


def test_a_task_tells_while_it_runs(place) -> None:
    """Who waits for a slow model sees each unit, not each task; in worker processes nobody listens."""
    told = []
    run_tasks([Telling("a"), Telling("b")], *place, tell=lambda *given: told.append(given))
    steps = [(done, of) for what, done, of in told if what == "touch"]
    assert steps == [(n, 4) for n in (0, 1, 1, 2, 2, 2, 3, 3, 4, 4)]
    assert [what for what, _, _ in told[:4]] == ["touch", "inside", "touch", "inside"]
    task_progress().tick(1.0)


def test_what_lies_in_the_store_counts(place) -> None:
    """A lost record loses nothing, a lost file is made again."""
    tasks = [Touch("a"), Touch("b")]
    run_tasks(tasks, *place)
    place[1].path.unlink()
    run_tasks(tasks, place[0], TaskRecord(place[1].path))
    assert log(place[0]) == ["a", "b"]
    (place[0].root / "a").unlink()
    run_tasks(tasks, place[0], TaskRecord(place[1].path))
    assert log(place[0]) == ["a", "b", "a"]


def test_a_failed_task_is_loud_and_the_others_go_on(place) -> None:
    tasks = [Touch("a"), Touch("x", broken=True), Touch("b")]
    for attempt in range(MAX_TASK_ATTEMPTS):
        tally = run_tasks(tasks, *place)
        assert (tally.done, tally.failed, tally.complete) == (2, ("touch: ValueError: x is broken",), False), attempt
    (given_up,) = run_tasks(tasks, *place).failed
    assert given_up.startswith(f"touch: failed {MAX_TASK_ATTEMPTS} times, last with ValueError: x is broken; ")
    assert log(place[0]).count("x") == MAX_TASK_ATTEMPTS
    (place[0].root / "x").write_text("")
    assert run_tasks(tasks, *place).complete, "another run made it: nothing is given up"


@pytest.fixture
def forked(monkeypatch) -> None:
    """Workers that import nothing anew, for what does not ask how they are started."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@dataclass(frozen=True)
class Full(Touch):
    """A task that finds no room."""

    def run(self, store: PictureStore) -> None:
        raise OutputError(f"{store.root}: No space left on device")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_the_run_and_is_no_tasks_fault(place, workers, forked) -> None:
    for _ in range(MAX_TASK_ATTEMPTS + 1 if workers == 1 else 1):
        with pytest.raises(OutputError, match="No space left"):
            run_tasks([Full("a"), Full("b")], *place, workers=workers)
    assert run_tasks([Touch("a"), Touch("b")], *place).complete


@dataclass(frozen=True)
class Dying(Touch):
    """A task whose process is killed, as by a system without memory."""

    def run(self, store: PictureStore) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_is_one_line_and_the_run_goes_on_later(place, forked) -> None:
    with pytest.raises(WorkerError, match=r"one of 2 workers died during touch.* run the same command again"):
        run_tasks([Dying("a"), Touch("b")], *place, workers=2)
    assert place[1].failures() == {}
    assert run_tasks([Touch("a"), Touch("b")], *place).complete


@pytest.mark.parametrize("workers", [1, 2])
def test_time_may_run_out(place, workers, forked) -> None:
    tally = run_tasks([Touch("a"), Touch("b")], *place, workers=workers, deadline=time.monotonic() - 1)
    assert (tally.done, tally.left, tally.complete) == (0, 2, False)
    assert run_tasks([Touch("a"), Touch("b")], *place, workers=1).complete


def test_workers_do_the_same(place) -> None:
    tasks = [Touch(f"t{i}", broken=i == 3) for i in range(6)]
    tally = run_tasks(tasks, *place, workers=2)
    assert (tally.done, tally.failed) == (5, ("touch: ValueError: t3 is broken",))
    assert sorted(log(place[0])) == sorted(task.name for task in tasks)
    assert str(os.getpid()) not in (place[0].root / "log").read_text()


def test_a_plan_is_made_once(place) -> None:
    assert place[1].plan("p", lambda: [[1, 2], [3]]) == [[1, 2], [3]]
    assert TaskRecord(place[1].path).plan("p", lambda: [[9]]) == [[1, 2], [3]]


def test_interruption_is_no_failure(place) -> None:
    class Stopped(Touch):
        def run(self, store: PictureStore) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Touch("a"), Stopped("b"), Touch("c")], *place)
    assert run_tasks([Touch("a"), Touch("b"), Touch("c")], *place).complete
    assert log(place[0]) == ["a", "b", "c"]


@dataclass(frozen=True)
class Slow(Touch):
    """Says that it runs, and would for a minute."""

    def run(self, store: PictureStore) -> None:
        (store.root / f"begun-{self.name}").write_text("")
        time.sleep(60)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests run as a job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_ends_workers_at_once(place, interruptible, forked) -> None:
    """Both are busy when Ctrl-C comes; neither is waited for, and nothing of theirs is left."""
    sent: list[float] = []

    def interrupt() -> None:
        while len(list(place[0].root.glob("begun-*"))) < 2:
            time.sleep(0.05)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_tasks([Slow("a"), Slow("b")], *place, workers=2)
    while multiprocessing.active_children():
        assert time.monotonic() - sent[0] < 20
        time.sleep(0.05)
    assert run_tasks([Touch("a"), Touch("b")], *place).complete


def test_workers_pay_on_a_cpu_with_enough_to_draw() -> None:
    assert default_workers(100_000, "cuda:0") == 1
    assert default_workers(10, "cpu") == 1
    assert default_workers(100_000, "cpu") == (os.cpu_count() or 1)
