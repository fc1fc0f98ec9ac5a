"""A refused line names field, value and remedy; a note remarks on an accepted line."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from tempo_storage.errors import TempoError

MAX_SHOWN_CHARACTERS = 64  # of a name or a value in a message
NOTHING = object()  # no value to show; None is a value


class LineRefusedError(TempoError, ValueError):
    """This line cannot be used, so the whole file is refused.

    The message has the reason and the remedy. `param` is the field, by the name that the file
    uses. `value` is the beginning of the field's value, as JSON.
    """

    def __init__(
        self, message: str = "", *, code: str = "", param: str | None = None, value: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.value = value


@dataclass(frozen=True, slots=True)
class Note:
    """A remark on an accepted line that its author may have meant otherwise."""

    code: str
    message: str
    param: str | None = None


def refuse(code: str, message: str, param: str | None = None, value: Any = NOTHING) -> NoReturn:
    """Raise LineRefusedError; a raw line as `value` is bytes."""
    shown_value = "" if value is NOTHING else shown(value)
    shown_param = None if param is None else shortened(param)
    raise LineRefusedError(message, code=code, param=shown_param, value=shown_value) from None


def shown(value: Any) -> str:
    """Return the beginning of a value: of a raw line as it is, of another value as JSON."""
    if isinstance(value, bytes):
        text = value[: 4 * MAX_SHOWN_CHARACTERS].decode(errors="replace")
    else:
        # A long text is cut first, because a value of 1 MiB may stand on each of 20,000 lines.
        cut = value[: MAX_SHOWN_CHARACTERS + 1] if isinstance(value, str) else value
        text = json.dumps(cut, ensure_ascii=False)
    return shortened(text)


def shortened(name: Any) -> str:
    """Return the beginning of a text, with escapes for what UTF-8 cannot encode."""
    text = str(name)
    more = "…" if len(text) > MAX_SHOWN_CHARACTERS else ""
    return text[:MAX_SHOWN_CHARACTERS].encode(errors="backslashreplace").decode() + more
