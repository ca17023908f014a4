"""Ray: one session per stage, and how many cells fit into it at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from clflow.config.schema import Resources
from clflow.errors import ClflowError
from pipelines.compute.signals import sigterm_kept
from pipelines.workspace.paths import Workspace


@contextmanager
def session(resources: Resources) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster that the parameters name, and leave it at the end. Within a
    session that was begun outside, it is that one.

    Raises:
        ClflowError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    # The controller looks at its workers this often; at Ray's two seconds, a short job mostly waits to be seen.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    if resources.cluster == "local":  # nobody takes this machine away, and the watcher is one process more per cell
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        _join(resources)
        yield
    finally:
        ray.shutdown()


def _join(resources: Resources) -> None:
    try:
        with sigterm_kept():
            ray.init(
                address=resources.cluster,
                include_dashboard=False if resources.cluster == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except ConnectionError as error:
        raise ClflowError(
            f"no Ray cluster answers at resources.cluster {resources.cluster!r} ({error}); start it or use local, and "
            "if it asks for a token, as clusters since Ray 2.59 do, set RAY_AUTH_MODE=token where its token is."
        ) from None
    except Exception as error:  # Ray raises no type of its own where its processes do not start
        raise ClflowError(
            f"Ray does not start on this machine ({' '.join(str(error).split())}); run the same command again when it "
            "has less to do, or look into Ray's logs, in /tmp/ray/session_latest/logs unless RAY_TMPDIR is set."
        ) from error


def has_gpus() -> bool:
    """Whether the cluster has any GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0


def worker_resources(resources: Resources) -> dict[str, float]:
    """Resources of one worker of a cell."""
    wanted: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if has_gpus() and resources.gpus_per_worker > 0:
        wanted["GPU"] = resources.gpus_per_worker
    return wanted


def worker_options(resources: Resources) -> dict[str, Any]:
    """The same as options of a Ray task or actor."""
    return {f"num_{kind.lower()}s": amount for kind, amount in worker_resources(resources).items()}


def fitting(wanted: dict[str, float]) -> int:
    """How many times the cluster has these resources."""
    total = ray.cluster_resources()
    return min(int(total.get(kind, 0) // amount) for kind, amount in wanted.items())


def concurrent_cells(resources: Resources) -> int:
    """How many cells fit into the cluster at once.

    Raises:
        ClflowError: not even one does. Ray itself would wait for ever.
    """
    total, workers = ray.cluster_resources(), resources.workers_per_cell
    cells = fitting({kind: amount * workers for kind, amount in worker_resources(resources).items()})
    if cells == 0:
        raise ClflowError(
            f"one cell needs {resources.workers_per_cell} x {worker_resources(resources)}, but the cluster has "
            f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; lower resources.workers_per_cell, "
            "cpus_per_worker or gpus_per_worker."
        )
    return cells


def storage_path(resources: Resources, workspace: Workspace) -> str:
    """Where checkpoints of running cells are kept: an absolute path, or the URI of a bucket.

    Raises:
        ClflowError: a folder cannot be made, or the cluster has several nodes, but no storage that all of them see.
    """
    if resources.storage is not None:
        if "://" in resources.storage:
            return resources.storage
        folder = workspace.root / Path(resources.storage).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a worker would say so after it has trained
            raise ClflowError(
                f"resources.storage {folder} cannot be a folder of checkpoints ({error.strerror}); name another, or a "
                "bucket."
            ) from None
        return str(folder)
    if len([node for node in ray.nodes() if node["Alive"]]) > 1:
        raise ClflowError("the cluster has several nodes; set resources.storage to a folder or bucket all of them see.")
    return str(workspace.checkpoints)
