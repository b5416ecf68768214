"""The error that a person can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input or the settings: shown as one message without a traceback, exit code 2.

    what: what is wrong.  where: the file, key or rank it was found in.  fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.what, self.where, self.fix)


def _rebuild(what: str, where: str | None, fix: str | None) -> UserError:
    return UserError(what, where=where, fix=fix)


def user_error_in(error: BaseException | None) -> UserError | None:
    """The UserError that caused `error`, however deeply a framework (Ray) has wrapped it; None if there is none."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, UserError):
            return current
        seen.add(id(current))
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None), getattr(current, "controller_failure", None)]
        queue += list(getattr(current, "worker_failures", {}).values())
        queue.append(getattr(current, "training_failed_error", None))
    return None
