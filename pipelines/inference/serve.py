"""``clflow serve``: champions of a dataset, or a detector in a folder, behind one HTTP endpoint, on Ray Serve."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from clflow.config.params import Params
from clflow.errors import ClflowError
from clflow.export import holds_export
from pipelines.compute import cluster
from pipelines.compute.signals import Interrupted
from pipelines.inference import watch
from pipelines.inference.serving.champions import Champions, FolderModel, Served
from pipelines.inference.serving.gateway import Gateway
from pipelines.inference.serving.messages import State
from pipelines.inference.serving.scorer import Scorer
from pipelines.registry.locate import champion_version, registered_name
from pipelines.tracking.server import tracking_uri
from pipelines.workspace.paths import Workspace

_log = logging.getLogger(__name__)
_APPLICATION = "clflow"
_ONGOING = 100  # requests that the gateway works on; more wait outside of it
_PATIENCE = 10.0  # seconds for a scorer to say what it holds


@dataclass(frozen=True)
class _Source:
    """What is served: names of dataset and categories, and what makes it on a scorer's device."""

    dataset: str
    categories: tuple[str, ...]
    open: Callable[[torch.device], Served]


def run(params: Params, dataset: str, workspace: Workspace, categories: tuple[str, ...], host: str, port: int) -> None:
    """Serve champions until SIGINT or SIGTERM. On a cluster, the endpoint is at its head node.

    Raises:
        ClflowError: a category has no champion or it cannot be loaded, MLflow does not answer, the cluster is too
            small, or the port is taken.
    """
    uri = tracking_uri(workspace)
    for category in categories:  # Ray would try again and again
        champion_version(registered_name(dataset, category), uri)
    source = _Source(dataset, categories, partial(Champions, dataset, categories, uri))
    _serve(source, params, workspace, host, port)


def run_folder(params: Params, folder: Path, workspace: Workspace, host: str, port: int) -> None:
    """Serve a detector that lies in a folder until SIGINT or SIGTERM.

    Raises:
        DataError: the folder holds no detector.
        ClflowError: it cannot be loaded, or the port is taken.
    """
    if holds_export(folder):
        raise ClflowError(f"{folder} is an exported graph; serve the detector that it was made from.")
    model = watch.Model.of_folder(folder)
    source = _Source(model.dataset, (model.category,), partial(FolderModel, folder.absolute(), model.category))
    _serve(source, params, workspace, host, port)


def _serve(source: _Source, params: Params, workspace: Workspace, host: str, port: int) -> None:
    if params.resources.cluster == "local":
        _require_port(host, port)
    with cluster.session(params.resources):
        _require_room(params)
        try:
            scorer = _start(source, params, workspace, host, port)
            _log.info("serving %d categories at http://%s:%d (docs at /docs)", len(source.categories), host, port)
            _follow(scorer, params.serving.poll_seconds)
        except Interrupted:  # how it is told to stop, so its exit code is 0
            _log.info("stopping")
        finally:
            serve.delete(_APPLICATION)


def _require_port(host: str, port: int) -> None:
    # Ray's proxy would share a port that another one has.
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ClflowError(f"{host}:{port} cannot be used ({error.strerror}); choose another --port.") from None


def _require_room(params: Params) -> None:
    # Ray would wait for it without end.
    replicas, wanted = params.serving.replicas, cluster.worker_resources(params.resources)
    room = cluster.fitting(wanted)
    if room < replicas:
        raise ClflowError(
            f"serving.replicas asks for {replicas} x {wanted}, but the cluster has room for {room}; lower it, or "
            "resources.cpus_per_worker or gpus_per_worker."
        )


def _start(source: _Source, params: Params, workspace: Workspace, host: str, port: int) -> DeploymentHandle:
    """Deploy, and wait until all models are loaded; returns the handle of the scorers."""
    serving = params.serving
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    scorers = serve.deployment(
        num_replicas=serving.replicas,
        max_ongoing_requests=4 * serving.batch,  # one batch is scored, others are decoded
        ray_actor_options=cluster.worker_options(params.resources),
    )(Scorer).bind(source.open, workspace, serving, params.resources.cpus_per_worker)
    gateway = serve.deployment(max_ongoing_requests=_ONGOING, ray_actor_options={"num_cpus": 0})(Gateway)
    serve.start(ProxyLocation.HeadOnly, HTTPOptions(host=host, port=port), logging_config=quiet)
    serve.run(
        gateway.bind(scorers, source.dataset, source.categories, serving), name=_APPLICATION, logging_config=quiet
    )
    handle = serve.get_deployment_handle(Scorer.__name__, _APPLICATION)
    states: dict[str, State] = handle.state.remote().result()
    for category, state in states.items():
        if state.version is None:
            raise ClflowError(f"the model of {category} cannot be served: {state.problem}")
    return handle


def _follow(scorer: DeploymentHandle, seconds: float) -> None:
    """Say what changes; it never ends by itself."""
    before: dict[str, State] | None = None
    while True:
        try:
            states: dict[str, State] = scorer.state.remote().result(timeout_s=_PATIENCE)
        except (TimeoutError, RayError, RayServeException):
            _log.warning("no scorer answers; Ray starts lost ones again.")
        else:
            for category, state in states.items():
                if before and (state.version, state.problem) != (before[category].version, before[category].problem):
                    problem = f"; {state.problem}" if state.problem else ""
                    _log.info("%s: version %s is in use%s", category, state.version, problem)
            before = states
        time.sleep(seconds)
