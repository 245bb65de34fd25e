"""What a Ray cluster of this machine costs beside worker processes: the same pictures, drawn by as many workers.

`python -m benchmarks.ray_overhead --minutes 10`: each side draws for about that long into a store of its own, with its
workers' start included and the cluster's excluded. CPU seconds are those of all processes, Ray's own among them; on a
machine that others use too, they say more than the clock.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from unconcept.core.progress import ignore_progress
from unconcept.evaluation.sampling import DrawSpec
from unconcept.evaluation.suites.groups import group_checks
from unconcept.evaluation.tasks.cluster import ClusterExecutor
from unconcept.evaluation.tasks.draw import plan_draws
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.local_workers import LocalExecutor
from unconcept.evaluation.tasks.picture_store import FORMAT_FILE, PictureStore
from unconcept.evaluation.tasks.ray_cluster import ClusterOptions, ray_cluster
from unconcept.evaluation.tasks.runner import TaskRecord, run_tasks
from unconcept.evaluation.tasks.task import Executor
from unconcept.prompts.checks import GroupSizes, Prompt

LIMIT = 0.10  # overhead that a cluster of one machine may have
TRIED = 48  # pictures that say how many take so many minutes


@dataclass(frozen=True)
class Cost:
    """What it took to draw."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        place = Path(folder)
        many = GroupSizes(4000, 4000)
        prompts = list(dict.fromkeys(check.prompt for check in group_checks(["dog face"], many)))
        local = LocalExecutor(args.workers)
        tried = draw(place / "tried", local, prompts[:TRIED])
        count = max(TRIED, round(60 * args.minutes / tried.seconds * TRIED))
        print(f"{count} pictures a side, about {args.minutes:g} minutes each", flush=True)
        prompts = prompts[:count]
        alone = draw(place / "local", local, prompts)
        begun = time.perf_counter()
        with ray_cluster(ClusterOptions("local", workers=args.workers)) as cluster:
            started = time.perf_counter() - begun
            executor = ClusterExecutor(cluster, FORMAT_FILE, args.workers, ignore_progress)
            on_ray = draw(place / "ray", executor, prompts)
            executor.close()
        same = all(
            (place / "ray" / path.relative_to(place / "local")).read_bytes() == path.read_bytes()
            for path in (place / "local" / "s" / "pictures").rglob("*.png")
        )
    print(f"{len(prompts)} pictures, {args.workers} workers, the same bytes: {same}; Ray started in {started:.0f} s")
    for name, cost in (("worker processes", alone), ("Ray", on_ray)):
        print(f"{name}: {cost.seconds:.1f} s, {cost.cpu_seconds:.1f} CPU s, {len(prompts) / cost.seconds:.2f} a second")
    for name, ratio in (("s", on_ray.seconds / alone.seconds), ("CPU s", on_ray.cpu_seconds / alone.cpu_seconds)):
        print(f"overhead in {name}: {ratio - 1:+.1%} (at most {LIMIT:.0%})")


def draw(place: Path, executor: Executor, prompts: Sequence[Prompt]) -> Cost:
    """Draw prompts into a new store."""
    store, record = PictureStore(place / "s"), TaskRecord(place / "record.sqlite")
    tasks = plan_draws(EditedModel(), DrawSpec(), prompts, store, record)
    return cost_of(lambda: run_tasks(tasks, store, record, executor=executor))


def cost_of(work: Callable[[], object]) -> Cost:
    """Do something, and add up the seconds of this process and of all that it has started."""
    begun, used = time.perf_counter(), cpu_seconds()
    work()
    return Cost(time.perf_counter() - begun, cpu_seconds() - used)


def cpu_seconds() -> float:
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
