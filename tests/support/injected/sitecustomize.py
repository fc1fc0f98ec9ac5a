"""With this directory on PYTHONPATH, variables change what a worker does; see ../injection.py.

INJECT_KILL       a pattern: the process kills itself with -9 before the first file operation that
                  matches. Operations read as Python audits them: `os.rename /from /to -1 -1`.
INJECT_ROLLOUTS   a directory: training's rollouts are recorded there, and replayed from there.
"""

import importlib.util
import os
import re
import signal
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

FILE_EVENTS = ("open", "os.mkdir", "os.rename")
SAMPLING = "tempo_trainer.sampling.responses"


def install_kill(pattern: re.Pattern[str]) -> None:
    """Kill this process before the first file operation that matches."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in FILE_EVENTS and pattern.match(" ".join(map(str, (event, *arguments)))):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class RecordAfterImport(MetaPathFinder):
    """Patches the trainer's sampling as soon as it is imported."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != SAMPLING:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_patch(module: Any) -> None:
            from recorded_rollouts import record

            execute(module)
            record(module.ResponseSource, self._directory, module.Sample)

        spec.loader.exec_module = execute_and_patch
        return spec


if pattern := os.environ.get("INJECT_KILL"):
    install_kill(re.compile(pattern))
if directory := os.environ.get("INJECT_ROLLOUTS"):
    sys.meta_path.insert(0, RecordAfterImport(Path(directory)))
