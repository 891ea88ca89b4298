"""`python -m router.training`: trains the shipped models again, from the data sets to the bundles.

fit       --data DIR --out DIR     train, calibrate, export, verify and write the encoder with its heads (needs the extra `train`)
verifier  --data DIR --out DIR     the same for the verifier, which confirms the cache's candidates
split     --data DIR --out FILE    write the held-back texts or pairs, as `semantic-router eval` reads them

An interrupted training goes on after its last whole epoch when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path

from router.training.data import NOT_FREE, read, recorded_models
from router.training.examples import ATTACKS, CLASSES, LEVELS, NO_LABEL, Example, is_for_calibration
from router.training.pairs import CONVERSATION, KINDS_OF_PAIRS, development, labelled, of_groups
from router.training.prompts import Case, read_conversations, read_groups

_SOURCES = f"comma-separated: texts, such as mmlu_pro or clinc150,banking77, or pairs: {', '.join(KINDS_OF_PAIRS)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m router.training", description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("fit", "verifier", "split"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=Path, required=True, help="folder of the data sets, see router/training/data.py")
        command.add_argument("--out", type=Path, required=True)
        if name == "split":
            command.add_argument("--sources", default="mmlu_pro", help=_SOURCES)
        else:
            command.add_argument("--threads", type=int, default=2)
            help_ = (
                "data sets to leave out, by folder, comma-separated; default: those that are not free for any use, %(default)s"
            )
            command.add_argument("--without", default=",".join(sorted(NOT_FREE)), help=help_)
    options = parser.parse_args(argv)
    if options.command == "split":
        return split(options.data, options.out, options.sources.split(","))
    if options.command == "verifier":
        from router.training.make_verifier import make  # torch loads only here
    else:
        from router.training.make import make
    without = frozenset(filter(None, options.without.split(",")))
    if unknown := {name for name in without if not (options.data / name).is_dir()}:
        parser.error(f"--without: there is no data set {', '.join(sorted(unknown))} in {options.data}")
    make(options.data, options.out, options.threads, without, lambda line: print(line, flush=True))
    return 0


def split(data: Path, out: Path, sources: Sequence[str]) -> int:
    """Write the held-back texts or pairs of questions of some sources, and return the exit status."""
    lines = _pairs(data, sources) if set(sources) <= set(KINDS_OF_PAIRS) else _texts(data, sources)
    out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} lines in {out}")
    return 0


def _pairs(data: Path, kinds: Sequence[str]) -> list[dict[str, object]]:
    by_kind = development(labelled(data)[1])
    by_kind["groups"] = of_groups([group for group in read_groups(data) if group.is_held_back])
    pairs = [pair for kind in kinds for pair in by_kind[kind]]
    lines: list[dict[str, object]] = [
        {"a": pair.asked, "b": pair.stored, "y": round(pair.same), "tag": pair.source} for pair in pairs
    ]
    cases = [case for case in read_conversations(data) if case.is_held_back]
    return lines + ([line for case in cases for line in _of_case(case)] if "conversations" in kinds else [])


def _of_case(case: Case) -> Iterator[dict[str, object]]:
    """Pairs of conversations: the stored one with each other, and another of the same answer with each that needs another one.

    One more is with what the stored one asked before: every turn of a conversation is in the cache. Those with other system
    messages are left out: the cache never compares them.
    """
    pairs = [(turns, case.stored, kind, True) for turns, kind in case.same]
    for place, (turns, kind) in enumerate(case.different):
        another = [case.same[place % len(case.same)][0]] if case.same else []
        pairs += [(turns, other, kind, False) for other in (case.stored, *another)]
    asked = [place for place, turn in enumerate(case.stored) if turn.role == "user"]
    if len(asked) > 1 and case.same:
        pairs.append((case.same[0][0], case.stored[: asked[-2] + 1], "continuation", False))
    for turns, other, kind, is_same in pairs:
        if [turn for turn in turns if turn.role == "system"] == [turn for turn in other if turn.role == "system"]:
            a, b = ([{"role": turn.role, "content": turn.text} for turn in some] for some in (turns, other))
            yield {"a": a, "b": b, "y": int(is_same), "tag": f"{CONVERSATION} {kind}"}


def _texts(data: Path, sources: Sequence[str]) -> list[dict[str, object]]:
    """Held-back texts that calibration did not use either."""
    _, held_back = read(data)
    chosen = [example for example in held_back if example.source in sources and not is_for_calibration(example.text)]
    if missing := set(sources) - {example.source for example in chosen}:
        texts, pairs = sorted({example.source for example in held_back}), ", ".join(KINDS_OF_PAIRS)
        sys.exit(
            f"--sources: nothing is held back of {', '.join(sorted(missing))}; there are {', '.join(texts)}; of pairs {pairs}"
        )
    models = recorded_models(data)
    return [_line(example, models) for example in chosen]


def _line(example: Example, models: Sequence[str]) -> dict[str, object]:
    line: dict[str, object] = {"text": example.text}
    if example.label:
        line["label"] = example.label
    if example.attack != NO_LABEL:
        line["attack"] = ATTACKS[example.attack]
    if example.outcomes:
        known = zip(models, example.outcomes, strict=True)
        line["outcomes"] = {name: None if isnan(right) else int(right) for name, right in known}
    if example.spans is not None:
        line["spans"] = example.spans
    if example.classes:
        line["cacheability"] = [name for name, holds in zip(CLASSES, example.classes, strict=True) if holds]
    if example.level != NO_LABEL:
        line["complexity"] = LEVELS[example.level]
    return line


if __name__ == "__main__":
    sys.exit(main())
