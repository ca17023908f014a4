"""``clflow fit``: from a folder of images to a detector in a folder, without a workspace."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clflow.api.evaluating import evaluate
from clflow.api.fitting import fit
from clflow.data.own import find_own_images
from pipelines.workspace.names import require_method

_log = logging.getLogger(__name__)
_SHOWN = ("image_auroc", "aupro_30", "false_alarms", "misses")


def run(images: Path, out: Path, params: Path | None, method: str, seed: int) -> None:
    """Say what was found, train, and measure on the test images, where there are normal and defective ones.

    Args:
        images: folder of a part, see `clflow.data.own.find_own_images`.
        out: folder of the detector.
        params: parameter file that states what differs from the defaults.
        method, seed: of the detector.

    Raises:
        ClflowError: see `clflow.fit`.
    """
    require_method(method)
    found = find_own_images(images)
    _log.info("%s: %s", images, found)
    with _warnings_logged():
        detector = fit(found, out=out, params=params, method=method, seed=seed, progress=_say_point)
    _log.info("%s: detector, threshold %.4g", out, detector.threshold)
    if set(found.test["label"]) == {0, 1}:
        metrics = evaluate(detector, found.folder / found.part)
        print("test images: " + ", ".join(f"{name} {metrics[name]:.4f}" for name in _SHOWN if name in metrics))
    model = shlex.quote(str(out))
    _log.info("next: clflow predict --model %s --out judged <images>; clflow serve --model %s", model, model)


def _say_point(point: dict[str, float]) -> None:
    figures = (f"{name} {point[name]:.4g}" for name in ("loss", "validation_auroc", "validation_aupro"))
    _log.info("  step %.0f: %s, %.0f s", point["step"], ", ".join(figures), point["seconds"])


@contextmanager
def _warnings_logged() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: _log.warning(message)
        yield
