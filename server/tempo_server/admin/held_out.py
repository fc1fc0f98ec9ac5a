"""Held-out answers decide promotions, so a request must ask for them by name: `held_out`."""

from typing import Annotated

from fastapi import Query

from tempo_storage.errors import InvalidInputError

HeldOut = Annotated[bool, Query(description="Ask for held-out answers, too.")]


def require_held_out(held_out: bool, reason: str) -> None:
    """Raise InvalidInputError, with the reason, unless the request asked for held-out answers."""
    if not held_out:
        raise InvalidInputError(
            f"held_out: {reason}, which decide promotions; send held_out=true if you want them"
        )
