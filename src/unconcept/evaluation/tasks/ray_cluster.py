"""A Ray cluster: one that runs already, or one that is started for a run on this machine and heard by it alone.

A worker is an actor, which keeps the models it has opened; a task of Ray that uses a GPU would open them anew. What
Ray sends between its processes (tasks, scores, edits) it pickles; nothing that it sends comes from the store.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from types import ModuleType
from typing import Any

from ...core.errors import SettingsError, WorkerError, require
from ...core.optional_imports import import_optional
from .cluster import RemoteWorker
from .scratch_folder import ScratchFolder
from .task import Task
from .task_worker import EditContent, TaskWorker, WorkerResult, WorkerSetup

OWN_CLUSTER = "local"  # the address that starts a cluster for the run
_RUNNING_CLUSTER = "auto"  # the address of a cluster that this machine is part of
_LOOPBACK = "127.0.0.1"
_SWITCH = "ENABLE_RAY_CLUSTER"  # Ray's own, and not public
_LISTENS_WITHIN = 5.0  # seconds
_OBJECT_BYTES = 256 << 20  # of edits and scores in memory; what is more goes to the disk
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # As worker processes; Ray's own would be 15.
}
_FORWARDED = ("HF_HUB_OFFLINE",)  # variables that workers on all machines get


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster a run uses, and how much of it."""

    address: str
    """HOST:PORT of the head, `auto` for the cluster of this machine, `local` to start one."""
    gpus: float | None = None
    """GPUs of one worker, or the share of one; None for one if the cluster has any."""
    workers: int | None = None
    """The largest number of workers; None for all that fit."""
    on_cpu: bool = False
    """Whether models compute on CPUs though there may be GPUs."""


@contextmanager
def ray_cluster(options: ClusterOptions) -> Iterator["RayCluster"]:
    """Join a cluster, or start one for as long as the block runs. `SettingsError` if no one listens at the address, or
    if it has no room for a worker; `WorkerError` for what Ray cannot do in between, but for workers that it loses.
    """
    ray = require_reachable(options.address)
    require(not ray.is_initialized(), "this process has joined a Ray cluster already: leave it, by ray.shutdown()")
    joined = _own_cluster(ray, options.workers) if options.address == OWN_CLUSTER else _joined(ray, options.address)
    with _ray_errors(ray), joined:
        gpus = options.gpus
        if gpus is None:
            gpus = float(not options.on_cpu and ray.cluster_resources().get("GPU", 0) > 0)
        cluster = RayCluster(ray, gpus)
        message = f"the Ray cluster has no machine with a CPU and {gpus:g} GPUs for a worker: give another --ray-gpus"
        require(cluster.room() > 0, message)
        yield cluster


@contextmanager
def _ray_errors(ray: ModuleType) -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__  # The last line of a traceback says what went wrong.
        raise WorkerError(f"the Ray cluster has failed: {reason}; the same command goes on from what is done") from None


@contextmanager
def _joined(ray: ModuleType, address: str) -> Iterator[None]:
    try:
        ray.init(address=address, **_how_to_connect())
    except (OSError, RuntimeError, ValueError) as error:
        reason = _first_line(error)
        raise SettingsError(
            f"--ray {address}: {reason}; start one by `ray start --head`, and this command on one of its machines"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_cluster(ray: ModuleType, workers: int | None) -> Iterator[None]:
    """A cluster of this machine alone, without a dashboard, with its files in a folder that goes with it."""
    # Unless this is off, Ray takes the address of this machine in its network for 127.0.0.1, and listens there.
    constants = sys.modules.get("ray._private.ray_constants")
    before = getattr(constants, _SWITCH, None)
    message = f"Ray {ray.__version__} cannot be kept to this machine: use ray 2.54, or --ray HOST:PORT of `ray start`"
    require(before is not None, message)
    folder, temporary = ScratchFolder.make("unconcept-ray-"), os.environ.get("TMPDIR")
    setattr(constants, _SWITCH, False)
    os.environ["TMPDIR"] = str(folder.path)  # Of the workers, so that nothing of a killed one stays.
    try:
        _start(ray, workers, str(folder.path))
        heard = ray.util.get_node_ip_address()
        require(heard == _LOOPBACK, f"this version of Ray listens at {heard}, not at {_LOOPBACK} alone: use another")
        yield
    finally:
        ray.shutdown()
        setattr(constants, _SWITCH, before)
        if temporary is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = temporary
        folder.remove()


def _start(ray: ModuleType, workers: int | None, folder: str) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=workers or os.cpu_count(),
            include_dashboard=False,
            object_store_memory=_OBJECT_BYTES,
            _node_ip_address=_LOOPBACK,
            _temp_dir=folder,
            **_how_to_connect(),
        )
    except Exception as error:  # Ray raises that class itself, on a machine that is too busy to start it in time.
        raise WorkerError(f"Ray has not started on this machine: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _how_to_connect() -> dict[str, Any]:
    forwarded = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    environment = {"runtime_env": {"env_vars": forwarded}} if forwarded else {}
    return {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR", **environment}


def require_reachable(address: str) -> ModuleType:
    """Ray itself. `MissingExtra` if it is not installed, `SettingsError` unless someone listens at HOST:PORT, where Ray
    would try for minutes.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    ray = import_optional("ray", "ray", "--ray")
    if address in (OWN_CLUSTER, _RUNNING_CLUSTER):
        return ray
    host, _, port = address.rpartition(":")
    told = f"--ray {address}"
    require(port.isdecimal() and bool(host) and "/" not in host, f"{told}: give HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _LISTENS_WITHIN).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"{told}: no Ray cluster listens there ({reason}); `ray start --head` prints the address of one"
        ) from None
    return ray


class RayCluster:
    """Room for workers on the machines of a Ray cluster."""

    def __init__(self, ray: ModuleType, gpus: float) -> None:
        """`gpus` are GPUs of one worker, or a share of one."""
        self._ray, self._gpus = ray, gpus
        known = ray.exceptions
        self.lost: tuple[type[Exception], ...] = (
            known.RayActorError,
            known.OutOfMemoryError,
            known.WorkerCrashedError,
            known.NodeDiedError,
            known.ObjectLostError,
        )
        self._actor = ray.remote(TaskWorker)

    def room(self) -> int:
        return sum(workers_on(node["Resources"], self._gpus) for node in self._ray.nodes() if node["Alive"])

    def start(self, setup: WorkerSetup) -> RemoteWorker:
        made = self._actor.options(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)
        return _RayWorker(self._ray, made.remote(setup))

    def share(self, data: bytes) -> Callable[[], bytes]:
        return _SharedBytes(self._ray.put(data))


def workers_on(resources: Mapping[str, float], gpus: float) -> int:
    """How many workers of one CPU and so many GPUs, or such a share of one, a machine has room for."""
    cpus, own = floor(resources.get("CPU", 0)), floor(resources.get("GPU", 0))
    if not gpus:
        return cpus
    return min(cpus, floor(own / gpus + 1e-9) if gpus >= 1 else own * floor(1 / gpus + 1e-9))


@dataclass(frozen=True)
class _RayWorker:
    """An actor on a cluster."""

    ray: ModuleType
    actor: Any

    def check(self) -> Future[str | None]:
        answer: Future[str | None] = self.actor.check.remote().future()
        return answer

    def run(self, task: Task, name: str, edit: EditContent | None) -> Future[WorkerResult]:
        result: Future[WorkerResult] = self.actor.run.remote(task, name, edit).future()
        return result

    def close(self) -> Future[None]:
        closed: Future[None] = self.actor.close.remote().future()
        return closed

    def stop(self) -> None:
        self.ray.kill(self.actor)


@dataclass(frozen=True)
class _SharedBytes:
    """Bytes in the object store of the cluster, read by whoever calls it."""

    reference: Any

    def __call__(self) -> bytes:
        import ray

        return bytes(ray.get(self.reference))
