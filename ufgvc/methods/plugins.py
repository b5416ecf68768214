"""Methods of other packages, which are found by their entry points in the group `ufgvc.methods`.

The name of an entry point is the method's, its value the module that registers it (docs/adding-a-method.md). A module
is imported when its method is asked for, so a package that cannot be imported disturbs no other method.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.methods.method import METHODS

log = logging.getLogger(__name__)
GROUP = "ufgvc.methods"


@dataclass(frozen=True)
class Package:
    """The installed distribution that a method comes from, as pip names it."""

    name: str
    version: str

    @property
    def requirement(self) -> str:
        """For pip. The build tag (+cu130) is left out, because it may differ on another machine."""
        return f"{self.name}=={self.version.split('+')[0]}"

    def to_json(self) -> dict[str, str]:
        """The entry `package` of model.json."""
        return {"name": self.name, "version": self.version}


@functools.cache
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """By the name of the method; none of a name that this package has itself."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    own = {name for name in METHODS.names() if METHODS.get(name).build.__module__.startswith("ufgvc.")}
    for each in importlib.metadata.entry_points(group=GROUP):
        if each.name in own:
            log.warning("the method %s of %s is not used: ufgvc has one of that name", each.name, each.value)
        else:
            found.setdefault(each.name, each)
    return found


def plugin_names() -> tuple[str, ...]:
    """The names of all methods of other packages, sorted; none of them is imported."""
    return tuple(sorted(_entry_points()))


def package_of(method: str) -> Package | None:
    """The package that a method comes from; None for a method of our own, and for one that is not installed."""
    entry_point = _entry_points().get(method)
    if entry_point is None or entry_point.dist is None:
        return None
    return Package(entry_point.dist.name, entry_point.dist.version)


def load_plugin(method: str) -> None:
    """Imports the module that registers a method, if a package has one.

    UserError, with the error of the module as its cause, if it cannot be imported, or does not register the method.
    """
    entry_point = _entry_points().get(method)
    if entry_point is None or method in METHODS.names():
        return
    package = package_of(method)
    where = f"method {method} of {package.requirement if package else entry_point.value}"
    try:
        entry_point.load()
    except (ImportError, AttributeError) as error:
        what = f"its module {entry_point.value!r} cannot be imported: {error}"
        raise UserError(what, where=where, fix="install what it needs, or correct its entry point") from error
    except Exception as error:  # whatever the module of another package does when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        what = f"its module {entry_point.value!r} cannot be imported: {reason}"
        fix = f"correct the package, or install another version; `python -c 'import {entry_point.module}'` shows where"
        raise UserError(what, where=where, fix=fix) from error
    if method not in METHODS.names():
        what = f"its module {entry_point.value!r} registers no method of that name"
        raise UserError(what, where=where, fix=f'write @method("{method}", ...), see docs/adding-a-method.md')


def check_package(method: str, package: Mapping[str, Any] | None, where: str) -> None:
    """UserError if a saved model's method comes from a package that is not installed.

    package: the entry of its model.json; None for a method of our own.  where: the model.
    """
    if package is None:
        return
    saved, installed = Package(package["name"], package["version"]), package_of(method)
    if installed is None:
        what = f"its method {method} comes from the package {saved.name}, which is not installed here"
        raise UserError(what, where=where, fix=f"pip install {saved.requirement}")
    if installed.version != saved.version:
        log.warning("%s was made with %s, and %s is installed", where, saved.requirement, installed.requirement)
