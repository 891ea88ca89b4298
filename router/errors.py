"""The four errors of the project, each named after its addressee.

Other exceptions, such as `NotStorable`, stay between a function and its callers.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_WORD_CHARS = 32


class RouterError(Exception):
    """Base of the four."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in an operator's file: where it is, and how to fix it."""

    file: str
    """Path of the file as the operator named it."""
    line: int
    """1-based line; 0 when the problem belongs to the whole file."""
    path: str
    """Dotted path of the field, such as `models.small.cluster`; empty for the whole file."""
    message: str
    """One sentence that says what is wrong and how to fix it."""
    severity: str = "error"
    """`error` refuses to start; `warning` is only printed."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        field = f" {self.path}:" if self.path else ""
        mark = " warning:" if self.severity == "warning" else ""
        return f"{place}:{mark}{field} {self.message}"


class ConfigError(RouterError):
    """For the operator: the configuration cannot work. Carries every problem at once, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class RequestError(RouterError):
    """For the client: the request cannot be served. The answer has OpenAI's error shape."""

    def __init__(self, http_status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        """The HTTP status that the client sees: 400 to 499, 503 or 504."""
        self.message = message
        """One sentence that names the field and the fix. Never holds prompt text."""
        self.param = param
        """The wrong field as OpenAI writes it, such as `messages[0].role`."""
        self.code = code
        """A stable machine-readable word, such as `model_not_found`."""


class BackendError(RouterError):
    """For nobody: a model or a store failed or was late. The reading becomes `Missing` or a miss, and the request goes on."""

    @property
    def word(self) -> str:
        """The reason as metrics, logs and spans show it: the error's text if it is a word such as `too_long`, else `failed`.

        Any other text is not shown, because it may quote a prompt.
        """
        text = str(self)
        is_word = text.isascii() and text.islower() and text.replace("_", "").isalpha() and len(text) <= _MAX_WORD_CHARS
        return text if is_word else "failed"


class ProtocolError(RouterError):
    """For Envoy: the exchange's state does not allow this message. The stream ends, and Envoy's failure policy acts."""
