"""The verifier `reasoning_gym:<task>`: a task of the package reasoning-gym scores the answer."""

import importlib
from typing import Any

from tempo_storage.answers.final_answer import final_answer
from tempo_trainer.sampling.verifying.contract import Metadata, References, Verdict

CORRECT = 0.99  # the score of a right answer is 1; lower ones are for a part or for the form


class ReasoningGym:
    """A response is correct if the task's own scorer gives it the full score.

    `metadata` is the entry's metadata, as reasoning-gym writes it. The name of a line has the task
    after a colon: `reasoning_gym:chain_sum`.
    """

    name = "reasoning_gym"

    def __init__(self, task: str = "") -> None:
        self._task = task

    def check_reference(self, reference: References) -> str | None:
        """Return an error if the package or the task is missing."""
        if not self._task:
            return "name the task, as in reasoning_gym:chain_sum"
        try:
            self._scorer()
        except (ImportError, ValueError) as error:
            return str(error)
        return None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Score the final answer; without a reference only read it."""
        answer = final_answer(response).text
        if not reference:
            return Verdict(False, answer)
        details = dict(metadata.get("metadata") or metadata)
        entry = {"question": "", "answer": reference[0], "metadata": details}
        return Verdict(self._scorer()(answer, entry) >= CORRECT, answer)

    def _scorer(self) -> Any:
        try:
            package = importlib.import_module("reasoning_gym")
        except ImportError as error:
            message = "install vllm-tempo[reasoning-gym] for the verifier reasoning_gym"
            raise ImportError(message) from error
        return package.get_score_answer_fn(self._task)
