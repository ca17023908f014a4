"""Provenance of code: modules of clflow or of a plug-in that a module imports, and the versions of libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path

from clflow.files import file_sha256, fingerprint

ROOT = Path(__file__).parents[1]
"""Folder of our packages."""

_PACKAGES = ("clflow", "pipelines")

# They raise, read, write, or pass on, but compute nothing. All else that is imported counts.
_TRANSPORT_MODULES = {"clflow.errors", "clflow.files", "clflow.plugins", "clflow.prefetch", "clflow.provenance"}
_TRANSPORT_LIBRARIES = {"filelock", "pandas", "pydantic", "pydantic_core", "requests", "ruamel", "safetensors"}


@dataclass(frozen=True)
class Code:
    """Code that determines a result.

    Attributes:
        files: ``package/module.py`` to the SHA-256 of what the module does: its syntax tree without docstrings.
        libraries: distribution to version, without a local part such as ``+cpu``.
    """

    files: dict[str, str]
    libraries: dict[str, str]


@cache
def code_of(*modules: str) -> Code:
    """The code of some modules (``clflow.model.flow``) and of all that they import, at any depth.

    What is in our packages, or in a package of one of the named modules, is followed; of all else, the version counts.
    Modules are read once per process, as Python itself does, and not imported.

    An import that is for type checkers only does not count, nor does a package whose module is imported, unless a
    name is taken from the package itself.

    Raises:
        ModuleNotFoundError: one of the modules is not there.
    """
    files: dict[str, str] = {}
    others: set[str] = set()
    followed = {*_PACKAGES, *map(_package, modules)}
    todo, seen = [*modules], set(_TRANSPORT_MODULES)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        file = _file(name)
        if file is None:
            raise ModuleNotFoundError(f"there is no source of module {name}")
        package = name if file.path.name == "__init__.py" else name.rpartition(".")[0]
        module = _parse(file.path.read_text(encoding="utf-8"), package)
        files[file.name] = module.sha256
        for imported in module.imports:
            if _package(imported) not in followed:
                others.add(_package(imported))
            else:  # a module, or a name of one; what has no source, such as compiled code, has a version
                places = imported, imported.rpartition(".")[0] or imported
                todo += [place for place in places if _file(place) is not None][:1]
    others -= {*sys.stdlib_module_names, *_TRANSPORT_LIBRARIES}
    distributions = sorted({distribution(name) for name in others})
    return Code(dict(sorted(files.items())), {name: _version(name) for name in distributions})


def files_of(folder: str) -> dict[str, str]:
    """Path below `ROOT` to the SHA-256 of the files in a folder of ours that code reads, such as templates."""
    return {path.relative_to(ROOT).as_posix(): file_sha256(path) for path in sorted((ROOT / folder).iterdir())}


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
def _parse(source: str, package: str) -> _Module:
    """What a module of a package does and imports."""
    tree = ast.parse(source)
    imports = frozenset(_imports(tree, package))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # Strings that stand alone are docstrings; they do nothing.
            node.body = [child for child in node.body if not _is_string(child)]
    return _Module(fingerprint(ast.dump(tree)), imports)


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of what is imported anywhere, but for what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)
        yield from _imports(node, package)


def _package(module: str) -> str:
    return module.partition(".")[0]


@dataclass(frozen=True)
class _File:
    name: str  # below the folder that holds the package
    path: Path


def _file(module: str) -> _File | None:
    """The source of a module, if there is any; nothing is imported."""
    for top in _tops(_package(module)):
        for end in (".py", "/__init__.py"):
            path = Path(f"{top.joinpath(*module.split('.')[1:])}{end}")
            if path.is_file():
                return _File(module.replace(".", "/") + end, path)
    return None


def _tops(package: str) -> list[Path]:
    """Where a package is, without the ending of a file; parts of a package without a file of its own may be apart."""
    if package in _PACKAGES:
        return [ROOT / package]
    spec = find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(location) for location in spec.submodule_search_locations]
    return [Path(spec.origin).with_suffix("")] if spec.has_location and spec.origin else []


@cache
def distribution(module: str) -> str:
    """Name of the distribution that a module of the top level comes with; of the module, if there is none."""
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
