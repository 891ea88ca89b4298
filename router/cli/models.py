"""`semantic-router eval`, `train` and `calibrate`: measure, train and calibrate the models on labelled data."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from router.errors import ConfigError, Problem

if TYPE_CHECKING:
    from router.inference.bundle import Bundle

    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

_PAIRS = (
    'JSON lines {"a": asked, "b": stored, "y": 1 if one answer fits both, else 0}; asked and stored are texts, or lists of '
    'messages {"role": ..., "content": text}; may be .gz'
)


def add_commands(commands: Subcommands) -> None:
    """Add the commands to the parser's subcommands."""
    _add_eval(_parts(commands, "eval", "measure the models on labelled data"))
    _add_train(_parts(commands, "train", "train a model of your own on labelled data"))
    _add_calibrate(_parts(commands, "calibrate", "choose thresholds by your own data"))


def _parts(commands: Subcommands, name: str, said: str) -> Subcommands:
    return commands.add_parser(name, help=said).add_subparsers(required=True, metavar="PART")


def _add_eval(kinds: Subcommands) -> None:
    command = kinds.add_parser("intent", help="measure accuracy, macro-F1, calibration error and confusion of the intent")
    command.add_argument("file", type=Path, help='JSON lines {"text": ..., "label": ...}')
    command.add_argument("--bundle", type=Path, metavar="FOLDER", help="measure this model or head, not the shipped model")
    command.add_argument("--baseline", type=Path, metavar="FOLDER", help="compare with this model or head")
    command.add_argument(
        "--threshold", type=float, help="confidence from which an intent counts as known; default: the model's own"
    )
    command.set_defaults(run=evaluate_intent)

    for part, run, said, lines in (
        (
            "routing",
            evaluate_routing,
            "measure the predicted accuracy of models, and what selection by it saves",
            '"outcomes": {model: 1 or 0}',
        ),
        (
            "jailbreak",
            evaluate_jailbreak,
            "measure how many attacks are found, and how many harmless texts are mistaken for attacks",
            '"attack": benign, jailbreak or harmful',
        ),
        ("pii", evaluate_pii, "measure how much personal data is found, by kind", '"spans": [[start, end, kind], ...]'),
    ):
        command = kinds.add_parser(part, help=said)
        command.add_argument("file", type=Path, help=f'JSON lines {{"text": ..., {lines}}}')
        command.add_argument("--bundle", type=Path, metavar="FOLDER", help="measure this model, not the shipped one")
        if part == "jailbreak":
            command.add_argument("--threshold", type=float, help="probability from which it counts; default: the model's own")
        command.set_defaults(run=run)

    command = kinds.add_parser("cache", help="measure hit rate, precision and false-hit rate of the cache")
    _add_models(command)
    command.add_argument(
        "--similarity", type=float, help="threshold of the cosine similarity; default: the configuration's default"
    )
    command.add_argument(
        "--max-false-hit-rate",
        type=float,
        default=0.01,
        metavar="RATE",
        help="upper bound of the false-hit rate; the calibration table gives its threshold; default: %(default)s",
    )
    command.add_argument("--calibration", type=Path, metavar="FILE", help="use this calibration table, not the shipped one")
    command.set_defaults(run=evaluate_cache)


def _add_train(kinds: Subcommands) -> None:
    command = kinds.add_parser("intent", help="train a head for your own labels on top of the shipped encoder")
    command.add_argument("--data", type=Path, required=True, metavar="FILE", help='JSON lines {"text": ..., "label": ...}')
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the head, for signals.custom")
    command.add_argument("--name", help="the signal's name in rules; default: the folder's name")
    command.add_argument(
        "--config",
        type=Path,
        default=Path("config/config.yaml"),
        help="the configuration for which the printed lines are written; default: %(default)s",
    )
    command.add_argument("--bundle", type=Path, metavar="FOLDER", help="use this encoder, not the shipped one")
    command.set_defaults(run=train_intent)


def _add_calibrate(kinds: Subcommands) -> None:
    command = kinds.add_parser("intent", help="choose the confidence from which an intent counts as known")
    command.add_argument(
        "--from",
        dest="file",
        type=Path,
        required=True,
        metavar="FILE",
        help='your traffic, JSON lines {"text": ..., "label": ...}; the label is optional',
    )
    command.add_argument("--bundle", type=Path, metavar="FOLDER", help="calibrate this model or head, not the shipped model")
    command.add_argument(
        "--accuracy", type=float, default=0.9, help="share of known intents that must be right; default: %(default)s"
    )
    command.set_defaults(run=calibrate_intent)

    command = kinds.add_parser("cache", help="make the table in which the cache looks up semantic_cache.max_false_hit_rate")
    _add_models(command)
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to write the table, for semantic_cache.calibration"
    )
    command.add_argument(
        "--conversations",
        type=Path,
        metavar="FILE",
        help="pairs of conversations, for the part of the table that semantic_cache.similar_conversations needs",
    )
    command.set_defaults(run=calibrate_cache)


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, help=_PAIRS)
    command.add_argument("--bundle", type=Path, metavar="FOLDER", help="use this encoder, not the shipped one")
    command.add_argument("--verifier", type=Path, metavar="FOLDER", help="use this verifier, not the shipped one")
    command.add_argument("--no-verifier", action="store_true", help="use no verifier")
    command.add_argument("--checks", metavar="NAME,...", help="lexical checks to use; default: the configuration's default")


def evaluate_intent(options: argparse.Namespace) -> int:
    """Measure the intent classifier on labelled texts."""
    from router.evaluation.intent import compare, evaluate
    from router.inference.bundle import SHIPPED

    if options.baseline:
        return _print(compare(options.file, (options.bundle or SHIPPED, options.baseline)))
    return _print(evaluate(options.file, options.bundle or SHIPPED, options.threshold))


def evaluate_routing(options: argparse.Namespace) -> int:
    """Measure the predicted accuracy on recorded outcomes."""
    from router.evaluation.signals import evaluate_routing as evaluate

    return _print(evaluate(options.file, _encoder(options)))


def evaluate_jailbreak(options: argparse.Namespace) -> int:
    """Measure the attack head on labelled texts."""
    from router.evaluation.signals import evaluate_jailbreak as evaluate

    return _print(evaluate(options.file, _encoder(options), options.threshold))


def evaluate_pii(options: argparse.Namespace) -> int:
    """Measure the head for personal data on annotated texts."""
    from router.evaluation.signals import evaluate_pii as evaluate

    return _print(evaluate(options.file, _encoder(options)))


def _encoder(options: argparse.Namespace) -> Bundle:
    from router.inference.bundle import SHIPPED, Bundle

    return Bundle.load(options.bundle or SHIPPED)


def train_intent(options: argparse.Namespace) -> int:
    """Train a head for an operator's own labels."""
    from router.training.head import train

    name = options.name or options.out.resolve().name
    return _print(train(options.data, _encoder(options), options.out, name, options.config))


def evaluate_cache(options: argparse.Namespace) -> int:
    """Measure the cache's decisions on labelled pairs of questions."""
    from router.cache.checks import CHECKS_ALONE, CHECKS_WITH_VERIFIER
    from router.config.calibration import CALIBRATION, SIMILARITY_OF_CONVERSATIONS, read_table
    from router.core.lookup import ConversationThresholds
    from router.evaluation.cache import Thresholds, evaluate

    encoder, verifier = _models(options)
    checks = _checks(options)
    if checks is None:
        checks = CHECKS_WITH_VERIFIER if verifier else CHECKS_ALONE
    table = read_table(options.calibration or CALIBRATION, has_verifier=verifier is not None)
    point = table.point(options.max_false_hit_rate)
    if point is None:
        raise ConfigError(
            [
                Problem(
                    "--max-false-hit-rate",
                    0,
                    "",
                    f"no threshold in {table.file} keeps the false-hit rate below {options.max_false_hit_rate:g}",
                )
            ]
        )
    similarity = options.similarity or (table.similarity if verifier else point.threshold)
    told, conversations = table.conversation_point(options.max_false_hit_rate), None
    if told:
        conversations = ConversationThresholds(options.similarity or SIMILARITY_OF_CONVERSATIONS, told.threshold)
    thresholds = Thresholds(similarity, point.threshold, conversations)
    return _print(evaluate(options.file, encoder, verifier, checks, thresholds))


def calibrate_intent(options: argparse.Namespace) -> int:
    """Choose the intent's threshold by real traffic."""
    from router.evaluation.thresholds import choose
    from router.inference.bundle import SHIPPED

    return _print(choose(options.file, options.bundle or SHIPPED, options.accuracy))


def calibrate_cache(options: argparse.Namespace) -> int:
    """Make a table for `max_false_hit_rate`."""
    from router.evaluation.calibration import calibrate

    return _print(calibrate(options.file, options.out, *_models(options), _checks(options), options.conversations))


def _models(options: argparse.Namespace) -> tuple[Bundle, Bundle | None]:
    from router.inference.bundle import SHIPPED, SHIPPED_VERIFIER, Bundle

    verifier = None if options.no_verifier else Bundle.load(options.verifier or SHIPPED_VERIFIER)
    return Bundle.load(options.bundle or SHIPPED), verifier


def _checks(options: argparse.Namespace) -> Sequence[str] | None:
    from router.cache.checks import CHECKS

    if options.checks is None:
        return None
    checks = tuple(filter(None, options.checks.split(",")))
    if unknown := set(checks) - set(CHECKS):
        message = f"there is no lexical check {', '.join(sorted(unknown))}; known are: {', '.join(CHECKS)}"
        raise ConfigError([Problem("--checks", 0, "", message)])
    return checks


def _print(lines: Iterable[str]) -> int:
    for line in lines:
        print(line, flush=True)
    return 0
