"""The list of commands. A command's module is imported when its settings or its function are asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, create_model

from ufgvc.core.config import Settings
from ufgvc.core.registry import Registry

if TYPE_CHECKING:  # for the list of commands, neither pyarrow nor torch is imported
    from ufgvc.commands.fields import CommandSettings
    from ufgvc.tracking.context import Context


@dataclass(frozen=True)
class Outcome:
    """result: what the command's `run` returned.  code: the exit code."""

    result: Any
    code: int


@dataclass(frozen=True)
class Command:
    """A command of `ufgvc`.

    Its module `ufgvc.commands.<name>` holds the class of its settings, named like the command with a capital letter,
    and `run(settings, context)`, which does the work, prints the result for a person and returns it: a dataclass or a
    mapping, which `--json` shows. A module may have `exit_code(settings, result)`; without one the code is 0.
    """

    name: str
    summary: str

    def settings(self, method: str | None = None) -> type[CommandSettings]:
        """The class of the settings; its `options` are those of the method. UserError for an unknown method.

        method: None stands for the command's default.
        """
        settings: type[CommandSettings] = getattr(self._module(), self.name.capitalize())
        if "options" not in settings.model_fields:
            return settings
        return _with_options_of(method or settings.model_fields["method"].default, settings)

    def run(self, settings: CommandSettings) -> Outcome:
        """Runs the command."""
        module = self._module()
        run: Callable[[CommandSettings, Context], Any] = module.run
        exit_code: Callable[[CommandSettings, Any], int] = getattr(module, "exit_code", lambda settings, result: 0)
        result = run(settings, settings.context())
        return Outcome(result, exit_code(settings, result))

    def _module(self) -> ModuleType:
        return importlib.import_module(f"ufgvc.commands.{self.name}")


@functools.cache
def _with_options_of(method: str, settings: type[CommandSettings]) -> type[CommandSettings]:
    """The settings class with the options of a method, made once."""
    from ufgvc.methods import names, options_class

    chooses = "budget" in settings.model_fields  # the command can choose the method itself
    options = Settings if chooses and method == "auto" else options_class(method)
    known = ", ".join(("auto", *names()) if chooses else names())
    default = settings.model_fields["method"].default
    chosen = create_model(
        settings.__name__,
        __base__=settings,
        __module__=settings.__module__,
        __doc__=settings.__doc__,
        __cls_kwargs__={"use_attribute_docstrings": False},  # no source to look for; the base's fields keep theirs
        method=(str, Field(default, description=f"one of {known}; --options are its own")),
        options=(options, Field(options(), description="options of the method")),
    )
    return cast("type[CommandSettings]", chosen)


COMMANDS: Registry[Command] = Registry("command")
for _name, _summary in {
    "synth": "make synthetic leaves in the released Ultra-FGVC layout, with exact masks",
    "ingest": "read photographs and boxes, check them, and store them as a data set",
    "detect": "train the region detector on a few dozen annotated leaves and measure it (Table I)",
    "mask": "find the regions of every leaf and store their masks",
    "suggest": "choose leaves to annotate next, and propose boxes on them for Label Studio, CVAT and LabelImg",
    "audit": "check what a data set is worth: copies, labels, confounders, cultivars that look alike, more leaves",
    "train": "train a classifier; the same command again continues or finds its run",
    "evaluate": "score a model on the test leaves, write report.html, and register it as challenger",
    "promote": "make the challenger champion if it is significantly better on the same test leaves",
    "predict": "name the cultivar on new photographs",
    "serve": "name cultivars over HTTP, with a page to drop a photograph on; a promoted champion takes over",
    "export": "write a model as an ONNX file, checked against torch; `predict --model` takes its folder",
    "calibrate": "calibrate a model's probabilities, and give it a threshold above which a leaf is unknown",
    "pipeline": "ingest, detect, mask, train, evaluate in order; what is done already is skipped",
    "benchmark": "train all methods and ablations and print Tables II and III; killed and started again, it continues",
    "pretrain": "train initial weights for each architecture on leaves that no benchmark uses",
    "search": "search loss and fusion weights, or any setting, by cross-validation on training leaves; it continues",
    "status": "show what there is of a data set, what of it is stale, and the next command",
    "sync": "send MLflow what it missed while its server did not answer",
    "bench": "measure what this machine can do, each figure with the usual alternative for comparison",
}.items():
    COMMANDS.register(_name)(Command(_name, _summary))
