"""How tokens are drawn: the arguments of a request that decide it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_INTEGER = 2**31 - 1  # of the databases' INTEGER
MIN_SAMPLING_TEMPERATURE = 1e-5  # vLLM's _SAMPLING_EPS: a lower one is greedy
# A request may call the same limit by several names. vLLM takes the first one that is set.
MAX_TOKENS_NAMES = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Decoding:
    """Temperature, nucleus, number of candidate tokens and limit; the field names are vLLM's."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """Tokens to choose from; 0: all."""
    max_tokens: int | None = None
    """Limit of a response's tokens; None: the users set none."""

    @property
    def is_greedy(self) -> bool:
        """Tell whether the most probable token is always taken."""
        return self.temperature < MIN_SAMPLING_TEMPERATURE or self.top_k == 1


GREEDY = Decoding(temperature=0.0)
PLAIN = Decoding()
"""The policy's own distribution, which rollouts are drawn from."""


def sampling_arguments(fields: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Return `temperature`, `top_p`, `top_k` and `max_tokens` of a request's fields.

    A value is None where the request does not set it, or sets one that vLLM refuses.
    """
    limits = [_integer(fields.get(name), minimum=1) for name in MAX_TOKENS_NAMES]
    top_p = _number(fields.get("top_p"))
    return {
        "temperature": _number(fields.get("temperature")),
        "top_p": top_p if top_p is not None and 0.0 < top_p <= 1.0 else None,
        "top_k": _integer(fields.get("top_k"), minimum=-1),
        "max_tokens": next((limit for limit in limits if limit is not None), None),
    }


def _number(value: Any) -> float | None:
    """Return a finite number of at least 0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0.0 else None


def _integer(value: Any, *, minimum: int) -> int | None:
    """Return an integer from `minimum` to MAX_INTEGER; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if minimum <= value <= MAX_INTEGER else None
