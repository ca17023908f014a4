"""The machine that something is measured on, and processes of its own for what is measured there."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from clflow.errors import ClflowError
from pipelines.compute.signals import process_pool

Result = TypeVar("Result")

_PACKAGES = ("torch", "torchvision", "timm", "FrEIA")


def alone(work: Callable[..., Result], *arguments: object) -> Result:
    """Do some work in a fresh process."""
    with process_pool(1) as pool:
        return pool.submit(work, *arguments).result()


def observe(threads: int, extras: dict[str, str]) -> dict[str, Any]:
    """Record this machine's hardware and load.

    Args:
        threads: that each measurement may use.
        extras: packages that are measured beyond those that every training needs, with the extra that brings each.

    Raises:
        ClflowError: one of them is not installed.
    """
    versions = {package: version(package) for package in _PACKAGES}
    for package, extra in extras.items():
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            raise ClflowError(f"the bench needs {package}; pip install 'clflow[{extra}]'.") from None
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": versions,
    }


def load_after() -> dict[str, float]:
    """The load after a measurement, which `observe` cannot know yet."""
    return {"load_after": os.getloadavg()[0]}


def describe(machine: dict[str, Any]) -> str:
    """The record in words."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['threads']} of {machine['cpus']} CPUs, load {machine['load_before']:.2f} "
        f"before and\n{machine['load_after']:.2f} after; {packages}"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if platform.system() == "Linux" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
