"""Killable children that verify responses: a hanging verifier costs one verdict and two seconds."""

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
from tempo_trainer.sampling.verifiers import Metadata, References, Verdict

START_SECONDS = 120.0
TIMED_OUT = Verdict(False, None, "timeout", failed=True)
MOST_FAILED, FEWEST_JUDGED = 0.5, 16


class VerifierError(TempoError, RuntimeError):
    """A verifier does not start, or fails on most responses: nothing may be learned from it."""


def refuse_failing(verdicts: Sequence[Verdict]) -> None:
    """Raise VerifierError where most of 16 responses or more came to no verdict.

    They would all count as incorrect, and the critic would learn that they are.
    """
    failed = [verdict.reason for verdict in verdicts if verdict.failed]
    if len(verdicts) >= FEWEST_JUDGED and len(failed) > MOST_FAILED * len(verdicts):
        raise VerifierError(
            f"the verifiers gave no verdict on {len(failed)} of {len(verdicts)} responses, at last:"
            f" {failed[-1]!r}; mend the verifier, or give the worker more processor time"
        )


@dataclass(frozen=True, slots=True)
class Item:
    """A response to verify."""

    verifier: str
    response: str
    reference: References
    metadata: Metadata


class VerifierPool:
    """`size` children, each with the verifiers of `preload`; one thread at a time may `verify`."""

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

        Raises VerifierError when a child that was killed does not start again.
        """
        with ThreadPoolExecutor(len(self._children)) as threads:
            return list(threads.map(self._verify_one, items))

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
        self._command = [
            sys.executable,
            "-P",
            "-m",
            "tempo_trainer.sampling.verifiers",
            "serve",
            *preload,
        ]
        self._process = self._start()

    def verify(self, item: Item, timeout_seconds: float) -> Verdict | None:
        """Return the verdict, or None after killing a process that gave none in time."""
        if self._process.poll() is not None:
            self._process = self._start()
            self.wait()
        assert self._process.stdin is not None
        try:
            print(json.dumps(asdict(item)), file=self._process.stdin, flush=True)
            reply = self._read(timeout_seconds)
        except BrokenPipeError:
            reply = None
        if reply is None:
            self.kill()
            return None
        return Verdict(**json.loads(reply))

    def wait(self) -> None:
        """Return when the process has loaded its verifiers."""
        if self._read(START_SECONDS) != "ready\n":
            self.kill()
            command = " ".join(self._command[2:])
            raise VerifierError(f"a verifier process does not start; run `python {command}`")

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        with suppress(BrokenPipeError), self._process:
            pass  # closes its pipes, with what it did not read, and reaps it

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _read(self, timeout_seconds: float) -> str | None:
        # One line is awaited at a time, so a readable pipe is about to hold the whole of it.
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_seconds)
        return self._process.stdout.readline() or None if ready else None
