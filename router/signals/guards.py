"""The guards: the signals of blocking rules, which read all that the model reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic

from tokenizers import Encoding as TokensOf

from router.core.conditions import Pattern
from router.core.prompt import Prompt
from router.core.text.disguise import readings_of
from router.core.types import Classification, Scores
from router.errors import BackendError
from router.inference.bundle import Bundle
from router.inference.encoder import Encoder, Encoding, Window
from router.inference.pool import InferencePool
from router.inference.tokens import SPECIAL_TOKENS
from router.signals.cuts import CutSearch
from router.signals.evidence import weighed, with_words
from router.signals.jailbreak import HEAD as ATTACK
from router.signals.jailbreak import NARROW, threshold_of
from router.signals.own.huggingface import HuggingFaceSignal
from router.signals.pii.signal import HEAD as PERSONAL
from router.signals.pii.signal import highest_by_kind, spans_in
from router.signals.scans import Part, Scans, highest

_SHORT_CHARS = 512  # a text up to this length may fit one narrow window; then the pass for the intent serves the guards, too


class ScanningGuard(Generic[Part]):
    """The common part of all guards. Each piece gets scores and the highest count. Unread text never passes as harmless."""

    def __init__(self, scans: Scans[Part], threshold: float = 0.0) -> None:
        """`threshold`: a score above it counts as a finding."""
        self._scans, self._threshold = scans, threshold

    async def scan(self, prompt: Prompt, shared: str) -> Scores:
        """As `Guard.scan`.

        Raises:
            BackendError: `Prompt.unread` when nothing was found and part of the prompt could not be read; else as the passes do.
        """
        found = await self.look([piece.text for piece in prompt.pieces], shared)
        scores = highest(self.weigh(prompt, found, shared))
        if prompt.unread and max(scores.values.values(), default=0.0) <= self._threshold:
            raise BackendError(prompt.unread)
        return scores

    async def look(self, texts: Sequence[str], shared: str) -> Sequence[Scores]:
        """The scores of each text, in order."""
        return await self._scans(texts)

    def weigh(self, prompt: Prompt, found: Sequence[Scores], shared: str) -> Sequence[Scores]:
        """Correct the scores of the pieces for each other."""
        return found


class _EncoderGuard(ScanningGuard[Window], ABC):
    """A guard that uses the encoder. For a short message it uses the pass that the intent needs anyway."""

    def __init__(self, encoder: Encoder, passes: InferencePool, across: CutSearch, threshold: float, width: int | None) -> None:
        self._encoder, self._width = encoder, width
        super().__init__(
            Scans(passes, self._cut, lambda window: self.scores(window[0], encoder.run_window(window)), across=across), threshold
        )

    async def look(self, texts: Sequence[str], shared: str) -> Sequence[Scores]:
        """The scores of each text."""
        if shared in texts and 0 < len(shared) <= _SHORT_CHARS and len(readings_of(shared)) == 1:
            try:
                encoding = await self._encoder.encode(shared)
            except BackendError as error:
                if str(error) == "overloaded":  # the queue of urgent passes is full, but a guard has time
                    return await self._scans(texts)
                if str(error) != "no_text":
                    raise
                return await self._beside(texts, shared, Scores({}))
            if not encoding.is_truncated and encoding.token_count <= (self._width or NARROW * 99) + SPECIAL_TOKENS:
                return await self._beside(texts, shared, self.scores(shared, encoding))
        return await self._scans(texts)

    async def _beside(self, texts: Sequence[str], shared: str, scores: Scores) -> Sequence[Scores]:
        """The scores of each text, given those of `shared`."""
        others = iter(await self._scans([text for text in texts if text != shared]))
        return [scores if text == shared else next(others) for text in texts]

    @abstractmethod
    def scores(self, text: str, encoding: Encoding) -> Scores:
        """The scores of one window, whose text is `text`, from its pass."""

    def _cut(self, text: str) -> list[Window]:
        return [window for reading in readings_of(text) for window in self._encoder.windows(reading, self._width)]


class JailbreakGuard(_EncoderGuard):
    """The probability of each kind of attack, in the worst window."""

    def __init__(self, encoder: Encoder, bundle: Bundle, passes: InferencePool, across: CutSearch) -> None:
        super().__init__(encoder, passes, across, threshold_of(bundle), NARROW)
        self._attacks = bundle.heads.get(ATTACK, ())

    def scores(self, text: str, encoding: Encoding) -> Scores:
        """The probability of each kind of attack."""
        return with_words(Scores(dict(zip(self._attacks[1:], encoding.scores[ATTACK][1:].tolist(), strict=True))), text)

    def weigh(self, prompt: Prompt, found: Sequence[Scores], shared: str) -> Sequence[Scores]:
        """Divides the odds by the amount of text, in groups: the newest message alone, the text that the other signals read
        alone, the application's instructions together, all else together. Text that the backend truncates does not count."""
        pieces, max_chars = prompt.pieces, prompt.max_shown_chars
        groups = [
            -1 if piece.is_instruction else place if place == 0 or piece.text == shared else -2
            for place, piece in enumerate(pieces)
        ]
        chars: dict[int, int] = {}
        for group, piece in zip(groups, pieces, strict=True):
            chars[group] = chars.get(group, 0) + len(piece.text)
        if max_chars is not None:
            chars = {group: min(max_chars, count) for group, count in chars.items()}
        return [weighed(scores, chars[group], is_instruction=group == -1) for group, scores in zip(groups, found, strict=True)]


class PiiGuard(_EncoderGuard):
    """The highest probability of each kind of personal data."""

    def __init__(self, encoder: Encoder, bundle: Bundle, passes: InferencePool, across: CutSearch) -> None:
        super().__init__(encoder, passes, across, 0.0, None)
        self._kinds = bundle.heads.get(PERSONAL, ())

    def scores(self, text: str, encoding: Encoding) -> Scores:
        """The highest probability of each kind that was found."""
        return highest_by_kind(spans_in(text, encoding, self._kinds))


class KeywordGuard(ScanningGuard[str]):
    """Whether a set of keywords occurs. The score has the set's name."""

    def __init__(self, name: str, patterns: Sequence[Pattern], passes: InferencePool, across: CutSearch) -> None:
        super().__init__(Scans(passes, readings_of, self._read, across=across))
        self._name, self._patterns = name, tuple(patterns)

    def _read(self, text: str) -> Scores:
        return Scores({self._name: 1.0} if any(pattern.search(text) for pattern in self._patterns) else {})


class HuggingFaceGuard(ScanningGuard[TokensOf]):
    """An exported classifier. If it names one label per window, each label scores the highest confidence with which it won."""

    def __init__(self, signal: HuggingFaceSignal, passes: InferencePool, across: CutSearch) -> None:
        super().__init__(Scans(passes, self._cut, self._read, across=across))
        self._signal = signal

    def _cut(self, text: str) -> list[TokensOf]:
        return [window for reading in readings_of(text) for window in self._signal.windows(reading)]

    def _read(self, window: TokensOf) -> Scores:
        reading = self._signal.classify([window])
        return Scores({reading.label: reading.confidence}) if isinstance(reading, Classification) else reading
