"""Sample responses from vLLM, for models that are too large to be sampled in this process.

Whenever the policy has changed, it is published as a trial into the server's store, as in a round.
Trials are numbered in that store. So only one run goes at a time, and training must be paused
meanwhile (`tempo pause`).
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import torch
from sqlalchemy.orm import Session, sessionmaker
from torch import Tensor

from tempo_lab.study.questions import Question
from tempo_storage import ledger
from tempo_storage.adapters import BASE_NAME, AdapterStore
from tempo_storage.decoding import PLAIN, Decoding
from tempo_storage.errors import AdapterMismatchError, InvalidInputError
from tempo_storage.ledger.sessions import open_database
from tempo_trainer.algorithm.networks import POLICY, Networks
from tempo_trainer.sampling.sampler import Prompt, Sample, Sampler, SamplingError
from tempo_trainer.sampling.server import admin_key, served_base
from tempo_trainer.worker_settings import WorkerSettings


class ServedSampler:
    """The policy as it is now, sampled by vLLM; `networks` must be untrained at the start."""

    def __init__(
        self,
        networks: Networks,
        sampler: Sampler,
        store: AdapterStore,
        sessions: sessionmaker[Session],
        *,
        base: str,
    ) -> None:
        self._networks = networks
        self._sampler = sampler
        self._store = store
        self._sessions = sessions
        self._base = base
        self._adapter = BASE_NAME
        self._published = self._weights()

    @classmethod
    def connect(cls, networks: Networks, model: str, settings: WorkerSettings) -> Self:
        """Sample from the server beside which the worker would learn, with the worker's key."""
        base = served_model(settings, model)
        sampler = Sampler(settings, key=admin_key(settings))
        sessions = open_database(settings.resolved_database_url)
        return cls(networks, sampler, AdapterStore(settings.adapters_dir), sessions, base=base)

    def close(self) -> None:
        """Close the connections."""
        self._sampler.close()
        self._sessions.kw["bind"].dispose()

    def prompt(self, question: Question) -> Prompt:
        """Return a question as the server tokenises it; raise InvalidInputError if it is too long.

        It is too long if it leaves no room for a response.
        """
        row = SimpleNamespace(
            content_hash=question.id,
            messages=list(question.messages),
            chat_template_kwargs=dict(question.chat_template_kwargs),
        )
        prompts = self._sampler.prompts([row])
        if not prompts:
            text = question.messages[-1]["content"]
            raise InvalidInputError(
                f"a question leaves no room for a response: {text[:60]!r}; "
                "leave it out, lower --max-tokens, or serve with a longer --max-model-len"
            )
        return prompts[0]

    def publish(self) -> str:
        """Return the name of the policy as it is now; publish it first if it has changed."""
        weights = self._weights()
        if not all(torch.equal(self._published[name], weights[name]) for name in weights):
            export = self._networks.policy.export
            manifest = self._store.publish_trial(export, base=self._base)
            with self._sessions.begin() as s:
                ledger.published.add(s, manifest)
            self._adapter = manifest.name
            self._published = weights
        return self._adapter

    def sample(
        self, prompts: Sequence[Prompt], *, n: int, seed: int, decoding: Decoding = PLAIN
    ) -> list[list[Sample]]:
        """Return `n` responses to each prompt. vLLM draws them afresh, so the seed has no effect.

        Raises SamplingError for a response that vLLM broke off, since groups must be whole.
        """
        adapter = self.publish()
        groups = self._sampler.sample(prompts, adapter=adapter, n=n, decoding=decoding)
        if any(not s.ids or s.finish_reason == "abort" for group in groups for s in group):
            raise SamplingError("vLLM broke off a response; the same command continues the study")
        return groups

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
