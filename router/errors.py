"""The four errors of the project, named by whom they are for.

Other exceptions, such as `NotStorable`, are a matter between a function and those who call it: nobody outside meets them.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_WORD_CHARS = 32


class RouterError(Exception):
    """Base of the four."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in an operator's file, with where it stands and how to mend it."""

    file: str
    """Path of the file as the operator named it."""
    line: int
    """1-based line; 0 when the problem belongs to the whole file."""
    path: str
    """Dotted path of the field, such as `models.small.cluster`; empty for the whole file."""
    message: str
    """What is wrong and what would be right, in one sentence."""
    severity: str = "error"
    """`error` refuses to start; `warning` is only printed."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        field = f" {self.path}:" if self.path else ""
        mark = " warning:" if self.severity == "warning" else ""
        return f"{place}:{mark}{field} {self.message}"


class ConfigError(RouterError):
    """For the operator: a configuration that cannot work. Carries every problem at once, never just the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class RequestError(RouterError):
    """For the client: a request that cannot be served, answered in OpenAI's error shape."""

    def __init__(self, http_status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        """400 to 499, 503 or 504; what the client sees as the HTTP status."""
        self.message = message
        """One sentence that names the field and the fix; never holds prompt text."""
        self.param = param
        """The field at fault as OpenAI writes it, such as `messages[0].role`."""
        self.code = code
        """A stable machine-readable word, such as `model_not_found`."""


class BackendError(RouterError):
    """For nobody: a deadline, a model or a store that failed. Becomes `Missing` or a miss; the request goes on."""

    @property
    def word(self) -> str:
        """The reason as metrics, logs and spans show it: the error's own where that is a word such as `too_long`, else `failed`.

        Whatever raised the error may have had a prompt in its hands.
        """
        text = str(self)
        is_word = text.isascii() and text.islower() and text.replace("_", "").isalpha() and len(text) <= _MAX_WORD_CHARS
        return text if is_word else "failed"


class ProtocolError(RouterError):
    """For Envoy: a message that the exchange's state does not allow. Ends the stream; Envoy's failure policy acts."""
