"""With this directory on PYTHONPATH, variables change what a worker does; see ../injection.py.

INJECT_KILL           a pattern: the process kills itself with -9 before the first file operation
                      that matches. Operations read as Python audits them:
                      `os.rename /from /to -1 -1`.
INJECT_ROLLOUTS       a directory: training's rollouts are recorded there, and replayed from there.
INJECT_ANY_CRITIC     any text: no critic is unfit; advantages that hardly differ are still refused.
INJECT_ANY_CANDIDATE  any text: the gate draws its answers, then finds every candidate proven.
"""

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

FILE_EVENTS = ("open", "os.mkdir", "os.rename")
FITNESS = "tempo_trainer.algorithm.fitness"
GATE = "tempo_trainer.versions.gate"
SAMPLING = "tempo_trainer.sampling.responses"


def install_kill(pattern: re.Pattern[str]) -> None:
    """Kill this process before the first file operation that matches."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in FILE_EVENTS and pattern.match(" ".join(map(str, (event, *arguments)))):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class PatchAfterImport(MetaPathFinder):
    """Calls a function with a module of the trainer as soon as it is imported."""

    def __init__(self, name: str, patch: Callable[[Any], None]) -> None:
        self._name = name
        self._patch = patch

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_patch(module: Any) -> None:
            execute(module)
            self._patch(module)

        spec.loader.exec_module = execute_and_patch
        return spec


def record_into(directory: Path) -> Callable[[Any], None]:
    """Return a patch of the sampling that records the rollouts of training in a directory."""

    def patch(module: Any) -> None:
        from recorded_rollouts import record

        record(module.ResponseSource, directory, module.Sample)

    return patch


def let_any_critic_pass(module: Any) -> None:
    """Find every critic fit: a test of rounds does not wait for a good one."""
    module.unfit_reason = lambda fitness: ""


def let_any_candidate_pass(module: Any) -> None:
    """Find every gain proven, with no doubt, gap or veto: a test of rounds has no better policy.

    So no round waits. The number of tests is not bounded, because tests share a server.
    """

    def decide(ask: Any, facts: Any, *, k: int) -> Any:
        return own(ask, replace(facts, gaps=()), k=k)

    own = module.decide
    module.decide = decide
    module.MAX_TESTS = 1_000_000
    module.unproven = lambda *given: ""
    module.doubts = lambda *given: iter(())
    module.vetoes = lambda *given: iter(())
    module.Decision.is_worse = property(lambda decision: False)


if pattern := os.environ.get("INJECT_KILL"):
    install_kill(re.compile(pattern))
if directory := os.environ.get("INJECT_ROLLOUTS"):
    sys.meta_path.insert(0, PatchAfterImport(SAMPLING, record_into(Path(directory))))
if os.environ.get("INJECT_ANY_CRITIC"):
    sys.meta_path.insert(0, PatchAfterImport(FITNESS, let_any_critic_pass))
if os.environ.get("INJECT_ANY_CANDIDATE"):
    sys.meta_path.insert(0, PatchAfterImport(GATE, let_any_candidate_pass))
