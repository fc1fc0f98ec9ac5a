"""How tokens are drawn: the arguments of a request that decide it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decoding:
    """Temperature, nucleus and number of candidate tokens; the field names are vLLM's."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """Tokens to choose from; 0: all."""

    @property
    def is_greedy(self) -> bool:
        """Tell whether the most probable token is always taken."""
        return self.temperature == 0.0 or self.top_k == 1


GREEDY = Decoding(temperature=0.0)
PLAIN = Decoding()
"""The policy's own distribution, which rollouts are drawn from."""
