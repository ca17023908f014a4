"""``clflow export``: a trained detector as one graph for another runtime."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from clflow.errors import ClflowError
from clflow.export import Format, export, holds_only_export
from clflow.methods.loading import load_detector
from pipelines.inference import watch
from pipelines.registry.locate import local_folder
from pipelines.workspace.paths import Workspace

_log = logging.getLogger(__name__)


def run(reference: str, out: Path, to: Format) -> None:
    """Export a detector to the folder ``out``, which an earlier export is replaced in.

    Args:
        reference: of the model, see `pipelines.registry.locate.local_folder`; MLflow's database is sought in the
            current folder.
        out: folder of the graph.
        to: the format.

    Raises:
        ClflowError: the model is unavailable or cannot be exported, or ``out`` holds something else.
    """
    if out.exists() and not holds_only_export(out):
        raise ClflowError(f"--out {out} holds something else than an unchanged exported detector; name another folder.")
    with tempfile.TemporaryDirectory() as download:
        folder = local_folder(reference, Workspace(Path.cwd()), Path(download))
        detector = load_detector(folder)
        worst = export(detector, to, out, watch.Model.files(folder))
    _log.info("%s: %s, for RGB images uint8 (B, H, W, 3); off by %.1e", out, to, worst)
