"""The product's gate within a run: each round is tested, and the version that serves is measured.

The rule is `tempo_trainer.versions.gate` itself, with the study's held-out questions and the users'
decoding. A round has TEMPO_ITERATIONS_PER_ROUND iterations. After a refusal the next test waits as
in the product. The policy starts again from what serves if the gate finds it worse, or after many
refusals in a row. The sentinel, which checks what serves, is left out.

The gate costs responses that other arms do not draw, and `sampled` does not count them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tempo_lab.study.lab import Lab
from tempo_lab.study.sampling import seed_of
from tempo_storage.decoding import Decoding
from tempo_trainer.algorithm.networks import POLICY
from tempo_trainer.versions.answers import Answers, Sides
from tempo_trainer.versions.gate import MAX_TESTS, RESTART_TESTS, Facts, decide, wait_rounds

State = dict[str, Any]
"""The state that `Networks.state_dict` returns."""


def after_iteration(lab: Lab) -> dict[str, Any]:
    """End a round where one ends: test the policy, promote or refuse it; return the decision."""
    if lab.iteration == 1:
        lab.memory |= {"tests": 0, "refusals": 0, "rounds": 0}
    if lab.iteration % lab.settings.iterations_per_round:
        return {}
    memory = lab.memory
    memory["rounds"] += 1
    if memory["rounds"] < wait_rounds(memory["refusals"]) or memory["tests"] >= MAX_TESTS:
        return {}
    memory |= {"rounds": 0, "tests": memory["tests"] + 1}
    questions = len(lab.held_out.questions)
    facts = Facts(lab.spec.users, [None] * questions)
    decision = decide(_Comparison(lab), facts, k=lab.settings.gate_samples)
    if decision.promote:
        memory |= {"serving": lab.networks.state_dict(), "refusals": 0}
    else:
        memory["refusals"] += 1
        if decision.is_worse or memory["refusals"] % RESTART_TESTS == 0:
            lab.networks.load_state_dict(memory.get("serving", memory["base"]))
    return {"gate": decision.reason, "promoted": decision.promote}


def remember_base(lab: Lab) -> None:
    """Keep the state from which the policy starts again while the base serves."""
    lab.memory["base"] = lab.networks.state_dict()


@contextmanager
def serving(lab: Lab, *, scale: float | None = None) -> Iterator[None]:
    """Let the policy be the version that serves; without a gate that is the policy itself.

    The adapter is at `scale`; None is the scale that versions serve with.
    """
    state = lab.memory.get("serving", lab.memory["base"]) if lab.spec.gate else None
    with _version(lab, state, scale=scale):
        yield


@contextmanager
def _version(lab: Lab, state: State | None, *, scale: float | None = None) -> Iterator[None]:
    """Let the policy be that of a state, at a scale; None: the policy as it is now."""
    weights = lab.networks.adapter_parameters(POLICY)
    own = {name: parameter.detach().clone() for name, parameter in weights.items()}
    other = state["weights"] if state else own
    try:
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(other[name])
        with lab.networks.policy.scaled(scale or lab.settings.serving_scale):
            yield
    finally:
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(own[name])


class _Comparison:
    """Draws the answers of base, serving version and candidate to all held-out questions."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._base: State = lab.memory["base"]
        self._serving: State | None = lab.memory.get("serving")

    def __call__(self, decoding: Decoding, start: int, n: int) -> Sides:
        """Return responses `start` to `start + n` of each side."""
        base = self._answers("base", self._base, decoding, start, n)
        served = base
        if self._serving:
            served = self._answers("serving", self._serving, decoding, start, n)
        candidate = self._answers("candidate", None, decoding, start, n)
        return Sides(base, served, candidate, base_serves=not self._serving)

    def _answers(
        self, name: str, state: State | None, decoding: Decoding, start: int, n: int
    ) -> Answers:
        lab = self._lab
        seed = seed_of(lab.settings.seed, "gate", lab.iteration, name, start, decoding)
        with _version(lab, state):
            responses = lab.sample(lab.held_out.questions, n, seed, decoding)
        samples = responses.samples
        return Answers(
            outcomes=np.array(lab.verifiers.outcomes(responses, lab.held_out.answers)),
            texts=lab.verifiers.answers(responses),
            lengths=np.array([[float(len(sample.ids)) for sample in row] for row in samples]),
            truncated=np.array([[s.finish_reason == "length" for s in row] for row in samples]),
        )
