"""The public names are those that are documented, and importing them costs little."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clflow

NAMES = {"ClflowError", "Detector", "Prediction", "__version__", "evaluate", "fit", "load"}
WORKFLOW = {"ray", "mlflow", "dvc", "optuna", "fastapi", "pipelines"}


def modules_after(code: str) -> set[str]:
    """Top-level names of what is imported when code has run in a process of its own."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_public_names_are_pinned():
    assert set(clflow.__all__) == NAMES
    assert set(clflow.__all__) <= set(dir(clflow))
    for name in clflow.__all__:
        assert getattr(clflow, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'fti'"):
        # Misspelt on purpose, and read for its error alone.
        clflow.fti  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import clflow") & {"torch", "numpy", "pandas", "pydantic", *WORKFLOW}


def test_the_names_import_no_workflow():
    assert not modules_after("from clflow import evaluate, fit, load") & WORKFLOW
