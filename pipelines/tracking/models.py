"""Log a detector as an MLflow model: as code, with its files and requirements."""

from __future__ import annotations

import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

import clflow
from clflow.features.weights import BACKBONES
from clflow.files import read_json
from clflow.model.detector import CONFIG_FILE
from clflow.provenance import distribution
from pipelines.tracking.runs import Runs

_PEERS = ("anomalib",)  # what a method is named after, it needs
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "FrEIA",
    "safetensors",
    "numpy",
    "pillow",
    "pydantic",
    "ruamel.yaml",
)


def log_detector(runs: Runs, run: str, folder: Path, record: dict[str, Any], params: dict[str, Any]) -> str:
    """Log the detector in a cell's folder as the model of a run; returns the model's id.

    MLflow's `log_model` uses the process-wide tracking URI and requests the history of every metric; this does neither.
    """
    client = runs.client
    made = client.create_logged_model(
        runs.experiment, "detector", run, params={name: str(value) for name, value in params.items()}
    )
    client.log_outputs(run, [LoggedModelOutput(made.model_id, step=0)])
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # An example would make MLflow load and run every model that is logged; the signature says as much.
        warnings.filterwarnings("ignore", ".*An input example was not provided")
        saved = Path(scratch, "model")
        mlflow.pyfunc.save_model(
            saved,
            mlflow_model=Model(made.artifact_location, run, model_uuid=made.model_id, model_id=made.model_id),
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"detector": str(folder)},
            code_paths=[str(Path(clflow.__file__).parent)],
            signature=_signature(record["protocol"]["image_size"]),
            pip_requirements=_requirements(record["method"], read_json(folder / CONFIG_FILE)),
        )
        client.log_model_artifacts(made.model_id, str(saved))
    client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    return made.model_id


def _signature(size: int) -> ModelSignature:
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
        outputs=Schema(
            [
                TensorSpec(np.dtype("float32"), (-1, size, size), "score_maps"),
                TensorSpec(np.dtype("float32"), (-1,), "image_scores"),
                TensorSpec(np.dtype("bool"), (-1,), "anomalous"),
            ]
        ),
    )


def _requirements(method: str, config: dict[str, Any]) -> list[str]:
    """Pip requirements of a detector, as installed here, with those of its plug-ins and weights."""
    names, model = [*_PACKAGES, *config.get("plugins", {})], config["model"]
    names += [package for package in _PEERS if method.startswith(f"{package}-")]
    if model["weights"] == "offline":
        names.append(distribution(BACKBONES.find(model["backbone"]).package))
    return [f"{name}=={version(name).partition('+')[0]}" for name in dict.fromkeys(names)]
