"""Provenance of code: our modules that a module imports, and the versions of libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from clflow.files import fingerprint

ROOT = Path(__file__).parents[1]
"""Folder of our packages."""

_PACKAGES = ("clflow", "pipelines")

# They raise, read, write, or pass on, but compute nothing. All else that is imported counts.
_TRANSPORT_MODULES = {"clflow.errors", "clflow.files", "clflow.prefetch", "clflow.provenance"}
_TRANSPORT_LIBRARIES = {"filelock", "pandas", "pydantic", "pydantic_core", "requests", "ruamel", "safetensors"}


@dataclass(frozen=True)
class Code:
    """Code that determines a result.

    Attributes:
        files: path below `ROOT` to the SHA-256 of what the module does: its syntax tree without docstrings.
        libraries: distribution to version, without a local part such as ``+cpu``.
    """

    files: dict[str, str]
    libraries: dict[str, str]


@cache
def code_of(*modules: str) -> Code:
    """The code of some of our modules (``clflow.model.flow``) and of all that they import, at any depth.

    It is read once per process, as Python itself does.

    An import that is for type checkers only does not count, nor does a package whose module is imported, unless a
    name is taken from the package itself.

    Raises:
        ModuleNotFoundError: one of the modules is none of ours.
    """
    files: dict[str, str] = {}
    others: set[str] = set()
    todo, seen = [*modules], set(_TRANSPORT_MODULES)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _file(name)
        if path is None:
            raise ModuleNotFoundError(f"{name} is no module below {ROOT}")
        module = _read(path)
        files[path.relative_to(ROOT).as_posix()] = module.sha256
        for imported in module.imports:
            if imported.split(".")[0] not in _PACKAGES:
                others.add(imported.split(".")[0])
            elif _file(imported) is not None:
                todo.append(imported)
            else:  # a name of a module
                todo.append(imported.rpartition(".")[0])
    others -= {*sys.stdlib_module_names, *_TRANSPORT_LIBRARIES}
    distributions = sorted({_distribution(name) for name in others})
    return Code(dict(sorted(files.items())), {name: _version(name) for name in distributions})


def commit() -> str:
    """The commit of the checkout that the code runs from, ``-dirty`` if it was changed since; else the version."""
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}-dirty" if _git("status", "--porcelain") else head
    except (OSError, subprocess.CalledProcessError):
        return f"clflow-{version('clflow')}"


@dataclass(frozen=True)
class _Module:
    sha256: str
    imports: frozenset[str]


@cache
def _read(path: Path) -> _Module:
    """What a file does and imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = frozenset(_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # Strings that stand alone are docstrings; they do nothing.
            node.body = [child for child in node.body if not _is_string(child)]
    return _Module(fingerprint(ast.dump(tree)), imports)


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported anywhere, but for what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from _imports(node)


def _file(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def _distribution(module: str) -> str:
    return min(_distributions().get(module, [module]))


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _version(distribution: str) -> str:
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
