"""Ray Train and errors that the user must mend: starting the workers again would only meet them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback

from ufgvc.core.errors import user_error_in


class EndAtMistakes(UserCallback):
    """Ends a run at the first UserError of a worker, by raising it in Ray Train's controller, which tries again only what its workers
    raised. What else ends workers (a lost process or node) is tried again as `max_failures` says.

    checkpoints: the folder to name when its disk refuses: Ray Train copies in the background, and its error names no file.
    """

    def __init__(self, checkpoints: str | None = None) -> None:
        self.checkpoints = checkpoints

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        for error in worker_exceptions.values():
            mistake = user_error_in(error, self.checkpoints)
            if mistake is not None:
                raise mistake
