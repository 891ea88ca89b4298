"""`python -m router.training`: makes the shipped model again, from the data sets to the bundle.

fit   --data DIR --out DIR     train, calibrate, export, verify and write a bundle (needs the extra `train`)
split --data DIR --out FILE    the texts that are held back, as `semantic-router eval intent` reads them
threshold --data DIR --out FILE    the table by which `max_false_hit_rate` chooses the cache's threshold
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from router.signals.bundle import SHIPPED
from router.training.data import Example, is_for_calibration, read


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m router.training", description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("fit", "split", "threshold"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=Path, required=True, help="folder of the data sets, see router/training/data.py")
        command.add_argument("--out", type=Path, required=True)
        if name == "fit":
            command.add_argument("--threads", type=int, default=2)
        elif name == "split":
            command.add_argument("--sources", default="mmlu_pro", help="comma-separated, such as mmlu_pro or clinc150,banking77")
    options = parser.parse_args(argv)
    if options.command == "split":
        return split(options.data, options.out, options.sources.split(","))
    if options.command == "threshold":
        from router.training.threshold import calibrate

        print(f"{calibrate(options.data, SHIPPED, options.out)} pairs, table in {options.out}")
        return 0
    from router.training.make import make  # torch loads only here

    make(options.data, options.out, options.threads, lambda line: print(line, flush=True))
    return 0


def split(data: Path, out: Path, sources: Sequence[str]) -> int:
    """Write the development texts of some sources: held back, and not used for calibration either."""
    _, held_back = read(data)
    chosen = [example for example in held_back if example.source in sources and not is_for_calibration(example.text)]
    out.write_text("".join(map(_line, chosen)), encoding="utf-8")
    print(f"{len(chosen)} texts in {out}")
    return 0


def _line(example: Example) -> str:
    return json.dumps({"text": example.text, "label": example.label}, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
