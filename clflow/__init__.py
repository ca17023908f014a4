"""CL-Flow: train, use and measure visual anomaly detectors.

What is imported here loads PyTorch only when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clflow.errors import ClflowError

if TYPE_CHECKING:
    from clflow.api.detector import Detector, Prediction, load
    from clflow.api.evaluating import evaluate
    from clflow.api.fitting import fit

    __version__: str

__all__ = ["ClflowError", "Detector", "Prediction", "__version__", "evaluate", "fit", "load"]

_MODULES = {
    "Detector": "clflow.api.detector",
    "Prediction": "clflow.api.detector",
    "evaluate": "clflow.api.evaluating",
    "fit": "clflow.api.fitting",
    "load": "clflow.api.detector",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("clflow")
    if name not in _MODULES:
        raise AttributeError(f"module 'clflow' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
