"""Plug-ins: methods, datasets and backbones by name, those of clflow and those that other distributions add.

A distribution adds an object by an entry point, whose name is the object's. Names are listed without an import; only
what is asked for is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Generic, Protocol, TypeVar

from clflow.config.spelling import did_you_mean
from clflow.errors import ParameterError

METHODS = "clflow.methods"
DATASETS = "clflow.datasets"
BACKBONES = "clflow.backbones"
GROUPS = (METHODS, DATASETS, BACKBONES)
"""Groups of entry points."""


class Named(Protocol):
    @property
    def name(self) -> str:
        """That it is asked for by."""
        ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Objects of one kind by name.

    Attributes:
        group: of the entry points that add some.
        kind: ``module:name`` of their type, which is imported with the first of them.
        own: ``module:name`` of those of clflow.
    """

    group: str
    kind: str
    own: Mapping[str, str]

    def names(self) -> list[str]:
        """All names, those of clflow first."""
        return list(dict.fromkeys([*self.own, *(entry.name for entry in installed(self.group))]))

    def nearest(self, name: str) -> str:
        """``; did you mean 'x'?`` for the name nearest to one that is unknown; empty where none is near."""
        return did_you_mean(name, self.names())

    def find(self, name: str) -> T:
        """The object of a name.

        Raises:
            ParameterError: see `require`; or a plug-in cannot be imported, or is not what it should be.
        """
        entry = self.require(name)
        try:
            found = entry.load()
        except Exception as error:  # whatever the code of others raises
            if entry.dist is None:
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ParameterError(
                f"{self._of(entry)} cannot be imported ({reason}); mend or uninstall {entry.dist.name}."
            ) from error
        kind = EntryPoint("kind", self.kind, self.group).load()
        if isinstance(found, type) or not isinstance(found, kind):
            what = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
            raise ParameterError(f"{self._of(entry)} is {what}; it must be an object of {self.kind.replace(':', '.')}.")
        if found.name != name:
            raise ParameterError(f"{self._of(entry)} calls itself {found.name!r}; its author must give both one name.")
        return found

    def module(self, name: str) -> str:
        """The module that defines the object of a name, which is not imported.

        Raises:
            ParameterError: see `require`.
        """
        return self.require(name).module

    def require(self, name: str) -> EntryPoint:
        """Where the object of a name is.

        Raises:
            ParameterError: there is none, and the sentence has the nearest name; or there are several.
        """
        found = [EntryPoint(name, self.own[name], self.group)] if name in self.own else []
        found += [entry for entry in installed(self.group) if entry.name == name]
        if not found:
            near = self.nearest(name) or f"; known are {', '.join(self.names())}."
            raise ParameterError(f"there is no {self._noun} {name!r}{near}")
        if len(found) > 1:
            first, *others = map(self._of, found)
            raise ParameterError(f"{first} has the same name as {' and '.join(others)}; uninstall all but one.")
        return found[0]

    @property
    def _noun(self) -> str:
        return self.group.removeprefix("clflow.").removesuffix("s")

    def _of(self, entry: EntryPoint) -> str:
        if entry.dist is None:
            return f"{self._noun} {entry.name!r} of clflow"
        place = f"entry point {entry.name} = {entry.value}"
        return f"{self._noun} {entry.name!r} of {entry.dist.name} {entry.dist.version} ({place})"


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group, by name; nothing is imported. They are looked for once per process."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)))


def required(method: str, backbone: str) -> dict[str, str]:
    """Name and version of each distribution that adds the method or the backbone; empty if both are of clflow.

    Args:
        method: its name, without that of a variant.
        backbone: its name.
    """
    wanted = ((METHODS, method), (BACKBONES, backbone))
    found = [entry.dist for group, name in wanted for entry in installed(group) if entry.name == name]
    return {dist.name: dist.version for dist in found if dist is not None}


def require_installed(distributions: Mapping[str, str], purpose: str) -> None:
    """Make sure that the distributions that something needs are there; another version may do.

    Args:
        distributions: name to version.
        purpose: what needs them.

    Raises:
        ParameterError: one is not.
    """
    for name, stated in distributions.items():
        try:
            version(name)
        except PackageNotFoundError:
            raise ParameterError(
                f"{purpose} needs the plug-in {name} {stated}, which is not installed; pip install {name}=={stated}."
            ) from None
