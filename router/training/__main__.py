"""`python -m router.training`: makes the shipped models again, from the data sets to the bundles.

fit       --data DIR --out DIR     the encoder with its heads: train, calibrate, export, verify, write (needs the extra `train`)
verifier  --data DIR --out DIR     the same for the model that confirms what the cache found
split     --data DIR --out FILE    the texts that are held back, as `semantic-router eval` reads them
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

from router.training.data import read, recorded_models
from router.training.examples import ATTACKS, NO_LABEL, Example, is_for_calibration


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m router.training", description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("fit", "verifier", "split"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=Path, required=True, help="folder of the data sets, see router/training/data.py")
        command.add_argument("--out", type=Path, required=True)
        if name == "split":
            command.add_argument("--sources", default="mmlu_pro", help="comma-separated, such as mmlu_pro or clinc150,banking77")
        else:
            command.add_argument("--threads", type=int, default=2)
            command.add_argument("--without", default="", help="data sets to leave out, by folder, comma-separated")
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
    """Write the development texts of some sources: held back, and not used for calibration either."""
    _, held_back = read(data)
    chosen = [example for example in held_back if example.source in sources and not is_for_calibration(example.text)]
    models = recorded_models(data)
    out.write_text("".join(_line(example, models) for example in chosen), encoding="utf-8")
    print(f"{len(chosen)} texts in {out}")
    return 0


def _line(example: Example, models: Sequence[str]) -> str:
    line: dict[str, Any] = {"text": example.text}
    if example.label:
        line["label"] = example.label
    if example.attack != NO_LABEL:
        line["attack"] = ATTACKS[example.attack]
    if example.outcomes:
        known = zip(models, example.outcomes, strict=True)
        line["outcomes"] = {name: None if isnan(right) else int(right) for name, right in known}
    if example.spans is not None:
        line["spans"] = example.spans
    return json.dumps(line, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
