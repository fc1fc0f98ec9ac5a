"""Child processes that verify responses; a verifier that hangs is killed after two seconds.

A class with a `timeout_seconds` of its own gets this time instead. Responses with the text of a
reference need no process.
"""

import json
import queue
import select
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self

from tempo_storage.errors import TempoError
from tempo_trainer.sampling.verifying.contract import Metadata, References, Verdict
from tempo_trainer.sampling.verifying.equal_text import equal_text

START_SECONDS = 120.0
COMMAND = (sys.executable, "-P", "-m", "tempo_trainer.sampling.verifiers", "serve")
TIMED_OUT = Verdict(False, None, "timeout", failed=True)
MAX_FAILED_SHARE = 0.5
MIN_VERDICTS = 16  # fewer are too few to tell a broken verifier from a few odd responses


class VerifierError(TempoError, RuntimeError):
    """A verifier does not start, or fails on most responses; nothing is learned from them."""


def raise_if_failed(verdicts: Sequence[Verdict]) -> None:
    """Raise VerifierError if verifiers failed on more than half of 16 responses or more.

    These responses would all count as incorrect, and the critic would learn that they are.
    """
    reasons = [verdict.reason for verdict in verdicts if verdict.failed]
    if len(verdicts) >= MIN_VERDICTS and len(reasons) > MAX_FAILED_SHARE * len(verdicts):
        raise VerifierError(
            f"the verifiers gave no verdict on {len(reasons)} of {len(verdicts)} responses; the"
            f" last reason is {reasons[-1]!r}; mend the verifier, or give the worker more processor"
            " time"
        )


@dataclass(frozen=True, slots=True)
class Item:
    """A response to verify."""

    verifier: str
    response: str
    reference: References
    metadata: Metadata


class VerifierPool:
    """`size` children that have loaded the verifiers `preload`.

    Only one thread at a time may call `verify`.
    """

    def __init__(
        self, preload: Sequence[str], *, size: int = 1, timeout_seconds: float = 2.0
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._children = [_Child(preload) for _ in range(size)]
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        try:
            for child in self._children:
                child.wait()
        except VerifierError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Return the verdicts in order; one that takes too long is incorrect, reason `timeout`.

        Raises VerifierError if a child that was killed does not start again.
        """
        verdicts = [equal_text(item.verifier, item.response, item.reference) for item in items]
        pending = [index for index, verdict in enumerate(verdicts) if verdict is None]
        with ThreadPoolExecutor(len(self._children)) as threads:
            late = threads.map(self._verify_one, [items[index] for index in pending])
            for index, verdict in zip(pending, late, strict=True):
                verdicts[index] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def close(self) -> None:
        """End the children."""
        for child in self._children:
            child.kill()

    def _verify_one(self, item: Item) -> Verdict:
        child = self._idle.get()
        try:
            return child.verify(item, self._timeout_seconds) or TIMED_OUT
        finally:
            self._idle.put(child)


class _Child:
    """A process that verifies one item at a time, started anew after it was killed."""

    def __init__(self, preload: Sequence[str]) -> None:
        self._command = [*COMMAND, *preload]
        self._own_timeouts: dict[str, float] = {}
        self._process = self._start()

    def verify(self, item: Item, timeout_seconds: float) -> Verdict | None:
        """Return the verdict; kill a process that gives none, or none in time, and return None."""
        if self._process.poll() is not None:
            self._process = self._start()
            self.wait()
        assert self._process.stdin is not None
        try:
            print(json.dumps(asdict(item)), file=self._process.stdin, flush=True)
            reply = self._read(self._own_timeouts.get(item.verifier, timeout_seconds))
        except BrokenPipeError:
            reply = None
        with suppress(ValueError, TypeError):  # another line than a verdict
            if reply is not None:
                return Verdict(**json.loads(reply))
        self.kill()
        return None

    def wait(self) -> None:
        """Return when the process has loaded its verifiers."""
        first, _, timeouts = (self._read(START_SECONDS) or "").partition(" ")
        if first.strip() != "ready":
            self.kill()
            command = " ".join(self._command[2:])
            raise VerifierError(f"a verifier process does not start; run `python {command}`")
        self._own_timeouts = json.loads(timeouts or "{}")

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        with suppress(BrokenPipeError), self._process:
            pass  # closes its pipes, unread input included, and reaps it

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _read(self, timeout_seconds: float) -> str | None:
        # A child writes whole lines, one for each item, so a readable pipe soon holds a whole one.
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_seconds)
        return self._process.stdout.readline() or None if ready else None
