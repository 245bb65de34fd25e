"""Where the tasks of a run are run: on this machine, or on a cluster."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext

from ...core.errors import SettingsError, require
from ...core.progress import ProgressCallback
from ...evaluation.tasks.picture_store import FORMAT_FILE, PictureStore
from ...evaluation.tasks.task import Executor
from ..options import DeviceOptions, RunOptions


@contextmanager
def run_executor(run: RunOptions, store: PictureStore, tell: ProgressCallback) -> Iterator[Executor | None]:
    """The cluster that the run names, which it leaves at the end; None for this machine."""
    if run.ray is None:
        yield None
        return
    from ...evaluation.tasks.cluster import ClusterExecutor  # These are heavy, and few runs need them.
    from ...evaluation.tasks.ray_cluster import ClusterOptions, ray_cluster
    from ...evaluation.tasks.shared_files import SharedFiles
    from ...evaluation.tasks.store_lease import store_lease

    on_cpu = isinstance(run, DeviceOptions) and run.device == "cpu"
    options = ClusterOptions(run.ray, run.ray_gpus, run.workers, on_cpu)
    # A store at a URL is leased as long as it is open.
    lease = nullcontext(FORMAT_FILE) if store.remote else store_lease(SharedFiles.at(store.root))
    with (
        lease as mark,
        ray_cluster(options) as cluster,
        closing(ClusterExecutor(cluster, mark, run.workers, tell)) as executor,
    ):
        yield executor


def require_cluster(run: RunOptions) -> None:
    """Raise a `UsageError`, before anything is opened, for options that contradict each other or a cluster that is not
    there.
    """
    require(run.ray is not None or run.ray_gpus is None, "--ray-gpus is of --ray: name a cluster too", SettingsError)
    if run.ray is None:
        return
    device = run.device if isinstance(run, DeviceOptions) else "auto"
    message = f"--device {device}: Ray gives each worker a GPU of its own; leave it out, or --device cuda"
    require(":" not in device, message, SettingsError)
    from ...evaluation.tasks.ray_cluster import require_reachable

    require_reachable(run.ray)
