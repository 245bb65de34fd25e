"""Runs on a real Ray cluster of this machine, whose workers, machines and command are killed: the same report."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from tests.evaluation.test_killed import untimed
from unconcept.core.errors import MissingExtra, SettingsError, WorkerError
from unconcept.evaluation.tasks.ray_cluster import (
    ClusterOptions,
    RayCluster,
    ray_cluster,
    require_reachable,
    workers_on,
)

# Ray leaves files of its own open, which are found when they are collected.
QUIET = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_without_ray_one_line_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"--ray needs ray, which is not installed: pip install 'unconcept\[ray\]'"):
        require_reachable("local")


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "count"),
    [
        (8, 0, 0, 8),
        (8, 2, 1, 2),
        (8, 2, 0.5, 4),
        (8, 2, 0.3, 6),
        (8, 4, 2, 2),
        (1, 4, 0.25, 1),
        (8, 0, 1, 0),
        (8, 1, 0.1, 8),
    ],
)
def test_as_many_workers_fit_as_their_shares_of_gpus(cpus, gpus, share, count) -> None:
    """A share is of one GPU, so that 0.3 of two has room for six workers, not for seven."""
    assert workers_on({"CPU": float(cpus), "GPU": float(gpus)}, share) == count


class RayError(Exception):
    """As the base class of Ray's exceptions."""


def stand_in(monkeypatch, **more: object) -> None:
    """A module with what is asked of Ray, before a cluster of one's own starts and while it runs."""
    known = ("RayActorError", "OutOfMemoryError", "WorkerCrashedError", "NodeDiedError", "ObjectLostError")
    exceptions = SimpleNamespace(RayError=RayError, **{name: type(name, (RayError,), {}) for name in known})
    own = {"__version__": "9.9", "exceptions": exceptions, "is_initialized": lambda: False, "shutdown": lambda: None}
    own |= {"init": lambda **given: None, "remote": lambda kind: kind, "cluster_resources": dict}
    own["util"] = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
    module = ModuleType("ray")
    vars(module).update({**own, "nodes": lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}], **more})
    monkeypatch.setitem(sys.modules, "ray", module)


def join(work: Callable[[RayCluster], object]) -> None:
    with ray_cluster(ClusterOptions("local")) as cluster:
        work(cluster)


def test_what_fails_in_ray_is_one_line(monkeypatch) -> None:
    """At the start, and while a run asks for machines."""
    constants = SimpleNamespace(ENABLE_RAY_CLUSTER=True)
    monkeypatch.setitem(sys.modules, "ray._private.ray_constants", constants)
    stand_in(monkeypatch)

    def work(cluster: RayCluster) -> None:
        assert not constants.ENABLE_RAY_CLUSTER, "Ray listens at 127.0.0.1"
        assert cluster.room() == 1
        raise RayError("Traceback:\n  somewhere\nKeyError: 3\n")

    with pytest.raises(WorkerError, match=r"^the Ray cluster has failed: KeyError: 3; the same command goes on"):
        join(work)
    assert constants.ENABLE_RAY_CLUSTER

    def nodes() -> None:
        raise RayError

    stand_in(monkeypatch, nodes=nodes)
    with pytest.raises(WorkerError, match="the Ray cluster has failed: RayError"):
        join(pytest.fail)


def test_a_ray_that_would_listen_in_the_network_is_not_started(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray._private.ray_constants", SimpleNamespace())
    stand_in(monkeypatch, init=lambda **given: pytest.fail("started"))
    with pytest.raises(SettingsError, match=r"Ray 9\.9 cannot be kept to this machine: use ray 2\.54"):
        join(pytest.fail)


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="pip install 'unconcept[ray]'")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "127.0.0.1", "ray://127.0.0.1:9", "[::1]:9", "nowhere.invalid:6379"]
)
def test_an_address_at_which_nobody_listens_is_one_line_at_once(ray, address) -> None:
    begun = time.monotonic()
    with pytest.raises(
        SettingsError, match=r"--ray .*: (no Ray cluster listens there \(|give HOST:PORT, auto or local)"
    ):
        require_reachable(address)
    assert time.monotonic() - begun < 10


@pytest.mark.slow
@QUIET
def test_a_cluster_of_ones_own_is_heard_by_this_machine_alone(ray, tmp_path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("unconcept-*"))
    with ray_cluster(ClusterOptions("local", workers=1)) as cluster:
        assert cluster.room() == 1
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        heard = set()
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            heard |= {(c.laddr.ip, c.laddr.port) for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
        assert heard
        assert {ip.removeprefix("::ffff:") for ip, _ in heard} <= {"127.0.0.1", "::1"}
        assert 8265 not in {port for _, port in heard}, "the dashboard is off"
    until(lambda: not psutil.Process().children(recursive=True))
    assert set(Path(tempfile.gettempdir()).glob("unconcept-*")) == before


def until(is_so: Callable[[], bool], seconds: float = 600) -> None:
    """Wait for it."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < seconds
        time.sleep(0.1)


class Run:
    """A bench of one method, with a store and an output of its own."""

    def __init__(self, place: Path, *more: str) -> None:
        self.out, self.store = place / "out", place / "store"
        words = ["bench", "pizza", "--methods", "uce", "--suite", "smoke", "--limit", "2", "--batch-size", "1"]
        self.words = [*words, "--store", str(self.store), "--out", str(self.out), *more]

    def begin(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "unconcept", *self.words]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)

    def finish(self, process: subprocess.Popen) -> str:
        _, told = process.communicate(timeout=1200)
        assert process.returncode == 0, told
        return told

    def drawn(self) -> int:
        return len(list((self.store / "pictures").rglob("*.png")))


@pytest.fixture
def two_machines(ray) -> Iterator:
    """A cluster of two machines of one CPU each, both on this one."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.other = made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def rounded(report: dict) -> dict:
    """An edit's own figures to 7 decimals: what a process has encoded before moves them in the tenth."""
    for trial in report["trials"]:
        trial["edit"]["report"] = {
            name: round(value, 7) if isinstance(value, float) else value
            for name, value in trial["edit"]["report"].items()
        }
    return report


def workers_of_ray() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["name"]) if (one.info["name"] or "").startswith("ray::TaskWork")]


@pytest.mark.slow
@QUIET
def test_losses_change_nothing_in_the_report(two_machines, tmp_path) -> None:
    """A worker is killed, then a machine; another joins; at last the command is killed and given again."""
    whole = Run(tmp_path / "whole", "--workers", "2")
    whole.finish(whole.begin())
    lossy = Run(tmp_path / "lossy", "--ray", two_machines.address)
    process = lossy.begin()
    until(lambda: lossy.drawn() >= 2)
    workers_of_ray()[0].kill()
    again = [sys.executable, "-m", "unconcept", *lossy.words, "--out", str(tmp_path / "x")]
    second = subprocess.run(again, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "is being written by process" in second.stderr
    assert not (tmp_path / "x").exists()
    two_machines.remove_node(two_machines.other, allow_graceful=False)
    two_machines.add_node(num_cpus=1)
    seen = lossy.drawn()
    until(lambda: lossy.drawn() > seen)
    assert process.poll() is None, "it is killed while it draws"
    process.kill()
    process.wait()
    told = lossy.finish(lossy.begin())
    assert "draw" in told, "progress is told as on one machine"
    assert rounded(untimed(lossy.out)) == rounded(untimed(whole.out))
    assert (lossy.out / "results.csv").read_bytes() == (whole.out / "results.csv").read_bytes()
    pictures = [{p.name: p.read_bytes() for p in run.store.rglob("*.png")} for run in (whole, lossy)]
    assert pictures[0] == pictures[1]
    assert not list(lossy.store.rglob("*.part"))
    assert not list((lossy.store / "lease").iterdir())
