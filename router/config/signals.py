"""The section `signals`: the classifier, the guards, keyword sets and the operator's own signals."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from router.config.keys import FilePath, Flag, Integer, Named, Number, OwnSection, Texts, key, named, read, subsection
from router.config.patterns import LinearPattern, PatternError, compile_pattern, keyword_patterns
from router.config.reader import Item, Section
from router.core.conditions import TextMatches
from router.errors import ConfigError
from router.inference.manifest import BundleManifest, HeadManifest, facts_of

SHIPPED_BUNDLE = Path(__file__).parents[1] / "models" / "intent"
USUAL_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The encoder, whose one pass gives intent, jailbreak, personal data and quality."""

    enabled: bool = key(Flag(), "Off: no model is loaded, and rules may not use `intent`, `jailbreak`, `pii` or `select`.", True)
    model_path: Path = key(
        FilePath("folder"),
        "Another model; a relative path starts at this file's folder. Its `manifest.json` names the categories.",
        SHIPPED_BUNDLE,
        shown="the shipped model",
    )
    max_queue: int = key(
        Integer(1, 100_000), "Requests that may wait for the encoder. For others the intent is missing at once.", 64
    )
    max_chunks: int = key(
        Integer(1, 256),
        "Chunks of a long text that are scanned for `pii` and by Hugging Face models, at most. A chunk has 128 tokens and starts "
        "94 after the one before; for `jailbreak`, three of 48 tokens take its place. A longer text counts as missing.",
        16,
    )


@dataclass(frozen=True, slots=True)
class IntentConfig:
    """The subject of a message."""

    threshold: float = key(
        Number(0, 1), "Confidence from which an intent counts as known.", USUAL_THRESHOLD, shown="the model's own"
    )


@dataclass(frozen=True, slots=True)
class GuardsConfig:
    """Guards, which read prompts for blocking rules."""

    deadline_ms: int = key(
        Integer(1, 100_000),
        "For all of them together; what is late counts as unread. envoy.yaml's `max_message_timeout` has to exceed it plus "
        "`coalesce_timeout_seconds` by a second.",
        30_000,
    )
    max_chars: int = key(
        Integer(1024, 16_777_216),
        "Characters read of the texts of one request, the newest messages first. A longer one counts as unread where nothing was "
        "found in what was read.",
        131_072,
    )
    max_queue: int = key(
        Integer(2, 100_000),
        "Prompts of `max_chars` that may wait for each guard and each thread of a worker; of shorter ones more, by their "
        "characters. Above it, the prompt with most left to read counts as unread: many long prompts never turn away short ones, "
        "which are also read first. More than the guards read within `deadline_ms` would all be late.",
        4,
    )


@dataclass(frozen=True, slots=True)
class KeywordKeys:
    """Words to look for."""

    words: tuple[str, ...] = key(
        Texts("words", "list of texts"), "Whole words or phrases, literally; `c++` works.", (), shown=" "
    )
    regex: tuple[str, ...] = key(
        Texts("patterns", "list of patterns"), "Found anywhere. See [Patterns](#patterns).", (), shown=" "
    )
    case_sensitive: bool = key(Flag(), "Whether upper and lower case differ.", False)


@dataclass(frozen=True, slots=True)
class CustomKeys:
    """A signal of the operator's own."""

    model_path: str = key(
        FilePath("folder", "the folder of a model"),
        "A head from `semantic-router train intent`, or an exported Hugging Face model. From this file's folder.",
        "",
        required="the folder of a model was expected",
    )
    threshold: float = key(
        Number(0, 1),
        "Lowest probability for conditions that name none.",
        USUAL_THRESHOLD,
        shown="the head's own, else 0.5",
    )


@dataclass(frozen=True, slots=True)
class SignalsConfig:
    """What is measured of a request."""

    deadline_ms: int = key(
        Integer(1, 60_000),
        "For all signals of a request together; what is late is missing. envoy.yaml's `message_timeout` has to exceed it.",
        250,
    )
    encoder: EncoderConfig = key(OwnSection(EncoderConfig), "The classifier.", EncoderConfig())
    intent: IntentConfig = subsection(IntentConfig, "The subject of the message.")
    guards: GuardsConfig = subsection(
        GuardsConfig,
        "Readings for rules that block, which may cover everything that the model will read: see "
        "[Rules that block](#rules-that-block).",
    )
    custom: Mapping[str, CustomSignal] = key(
        Named(CustomKeys, "signals by name"), "Your own; see [Signals of your own](#signals-of-your-own).", None, shown="none"
    )
    keywords: Mapping[str, TextMatches] = key(
        Named(KeywordKeys, "sets by name"),
        "Words to look for in the classified text: the last user message, or the first and last 8,192 characters of one longer "
        "than 16,384. Rules that block look [in more](#rules-that-block).",
        None,
        shown="none",
    )


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """The labels of the encoder's heads."""

    labels: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: BundleManifest) -> ModelCapabilities:
        """From a bundle's manifest.json."""
        labels, attacks, kinds, models = (manifest.heads.get(head, ()) for head in ("intent", "attack", "personal", "outcomes"))
        return cls(labels, attacks, kinds, models, manifest.thresholds)


@dataclass(frozen=True, slots=True)
class CustomSignal:
    """A signal of the operator's own."""

    folder: Path
    labels: tuple[str, ...]
    threshold: float
    is_detector: bool = False
    """True for a classifier from Hugging Face, which can be a guard. False for a head, which tells a message's subject."""


def read_signals(section: Section, built_in: Collection[str]) -> tuple[SignalsConfig, ModelCapabilities]:
    """The section, and what the encoder's model tells apart; nothing, when it is switched off. No model is loaded.

    `built_in` are names that no signal of the operator's may have.
    """
    # A disabled feature never loads and never fails: its files need not be there.
    encoder_section = section.section("encoder")
    folder = Path(section.notes.file).parent
    encoder = read(encoder_section, EncoderConfig)
    encoder = replace(encoder, model_path=folder / encoder.model_path)
    capabilities = _capabilities(encoder_section, encoder.model_path) if encoder.enabled else ModelCapabilities()
    usual = IntentConfig(capabilities.thresholds.get("intent", USUAL_THRESHOLD))
    config = read(section, SignalsConfig, SignalsConfig(intent=usual, custom={}, keywords={}))
    custom, keywords = _read_custom(section.section("custom"), built_in), _read_keywords(section.section("keywords"))
    return replace(config, encoder=encoder, custom=custom, keywords=keywords), capabilities


def _capabilities(section: Section, folder: Path) -> ModelCapabilities:
    try:
        found = ModelCapabilities.of(BundleManifest.of(folder))
    except ConfigError:
        found = ModelCapabilities()
    if not found.labels:
        section.problem("model_path", f"there is no model in {folder}: manifest.json is missing or damaged; see `make train`")
    return found


def _read_custom(section: Section, built_in: Collection[str]) -> dict[str, CustomSignal]:
    found = {}
    for name, item in section.named():
        if name in built_in:
            item.problem(f"'{name}' is a built-in signal; choose another name")
    for name, (part, keys) in named(section, CustomKeys).items():
        folder = Path(section.notes.file).parent / keys.model_path
        threshold, labels, is_detector = keys.threshold, tuple[str, ...](), False
        if keys.model_path:
            try:
                facts = facts_of(folder)
                labels, is_detector = facts.names, not isinstance(facts, HeadManifest)
                if isinstance(facts, HeadManifest) and not part.has("threshold"):
                    threshold = facts.threshold
            except ConfigError as error:
                part.problem("model_path", f"{error.problems[0].file} {error.problems[0].message}")
        found[name] = CustomSignal(folder, labels, threshold, is_detector)
    return found


def _read_keywords(section: Section) -> dict[str, TextMatches]:
    sets = {}
    for name, (part, keys) in named(section, KeywordKeys).items():
        listed = part.item("regex")
        checked = [compile_regex(each, is_case_sensitive=keys.case_sensitive) for each in (listed.items() if listed else ())]
        if not part.has("words") and listed is None:
            section.problem(name, "'words' or 'regex' was expected")
        patterns: tuple[LinearPattern, ...] = ()
        try:
            valid = [pattern.pattern for pattern in checked if pattern]
            patterns = keyword_patterns(keys.words, valid, is_case_sensitive=keys.case_sensitive)
        except PatternError as error:
            section.problem(name, str(error))
        sets[name] = TextMatches(name, patterns)
    return sets


def compile_regex(item: Item, *, is_case_sensitive: bool) -> LinearPattern | None:
    """Compile a pattern that does not match every text. Anything else is a problem and gives None."""
    text = item.text()
    try:
        pattern = compile_pattern(text, is_case_sensitive=is_case_sensitive)
    except PatternError as error:
        item.problem(str(error))
        return None
    if text and pattern.search("") and pattern.search("\0"):
        item.problem("matches every text; is there a '*' or '?' too many?")
    return pattern
