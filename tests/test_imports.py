"""What starts fast imports little. Which room may import which is checked by `make lint`."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_command_line_starts_without_heavy_libraries():
    tree = ast.parse((ROOT / "pipelines" / "cli.py").read_text(encoding="utf-8"))
    assert not imported(tree.body) & {"torch", "ray", "mlflow", "dvc", "pandas"}


def test_who_only_plans_does_not_wait_for_the_model_zoo():
    heavy = {"timm", "torchvision", "FrEIA", "anomalib", "sklearn"}
    code = f"import sys, pipelines.workspace.plan; print({heavy} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
