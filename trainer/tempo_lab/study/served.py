"""Sample responses from vLLM, for models too large to be sampled in this process.

Whenever the policy has changed it is published as a trial into the server's store, as in a round.
Trials are numbered in that store: one run at a time, and no training beside it (`tempo pause`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import torch
from torch import Tensor

from tempo_storage.adapters import AdapterStore, version_name
from tempo_storage.errors import AdapterMismatchError, InvalidInputError
from tempo_trainer.algorithm.networks import POLICY, Networks
from tempo_trainer.sampling.sampler import Prompt, Sample, Sampler, SamplingError
from tempo_trainer.sampling.server import admin_key, served_base
from tempo_trainer.worker_settings import WorkerSettings


class ServedSampler:
    """The policy as it stands, by vLLM; `networks` are untrained when this is made."""

    def __init__(
        self, networks: Networks, sampler: Sampler, store: AdapterStore, *, base: str
    ) -> None:
        self._networks, self._sampler, self._store = networks, sampler, store
        self._base, self._adapter = base, version_name(0)
        self._sampled_from = self._weights()

    @classmethod
    def connect(cls, networks: Networks, model: str, settings: WorkerSettings) -> Self:
        """Sample from the server that the worker would learn beside, with the worker's key."""
        base, store = served_model(settings, model), AdapterStore(settings.adapters_dir)
        return cls(networks, Sampler(settings, key=admin_key(settings)), store, base=base)

    def close(self) -> None:
        """Close the connections."""
        self._sampler.close()

    def prompt(self, question_id: str, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """Return a question as the server tokenises it."""
        asked = SimpleNamespace(content_hash=question_id, messages=list(messages))
        if not (found := self._sampler.prompts([asked])):
            raise InvalidInputError(
                f"a question leaves no room for a response: {messages[-1]['content'][:60]!r}; "
                "leave it out, lower --max-tokens, or serve with a longer --max-model-len"
            )
        return found[0]

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Sample]]:
        """Return `n` responses to each prompt, whatever the seed: vLLM draws them afresh.

        Raises SamplingError for a response that vLLM broke off: groups are whole, or not at all.
        """
        groups = self._sampler.sample(prompts, adapter=self._current(), n=n)
        if any(not s.ids or s.finish_reason == "abort" for group in groups for s in group):
            raise SamplingError("vLLM broke off a response; the same command continues the study")
        return groups

    def _current(self) -> str:
        """Return the name of the policy as it stands; publish it if it is not what it was."""
        weights, known = self._weights(), self._sampled_from
        if not all(torch.equal(known[name], tensor) for name, tensor in weights.items()):
            export = self._networks.policy.export
            self._adapter = self._store.publish_trial(export, base=self._base)
            self._sampled_from = weights
        return self._adapter

    def _weights(self) -> dict[str, Tensor]:
        parameters = self._networks.adapter_parameters(POLICY)
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def served_model(settings: WorkerSettings, model: str) -> str:
    """Return the server's name of its base; raise AdapterMismatchError unless `model` is it."""
    served = served_base(settings, admin_key(settings))
    if Path(served).resolve() != Path(model).resolve():
        raise AdapterMismatchError(
            f"{settings.base_url} serves {served!r}, which is not {model!r}; "
            f"give --model {served}, or serve the other"
        )
    return served
