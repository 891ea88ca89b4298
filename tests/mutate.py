"""`make mutate`: which changes of the pure modules the unit tests notice. Says how many, and shows those that they do not.

python -m tests.mutate [--sample N] [--seed S] [PATTERN ...]      patterns as in: 'router.core.policy.*' (all their mutants then)

mutmut makes the mutants and runs the tests; `[tool.mutmut]` in pyproject.toml says which modules and which tests. Here is what
mutmut lacks: a sample that is the same in each run, and a report by place. Asserts nothing.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mutmut import __main__ as mutmut
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import mangled_name_from_mutant_name, orig_function_and_class_names_from_key

FOLDER = Path("mutants")
NOTICED = ("killed", "timeout", "segfault", "caught by type check")
Z_95 = 1.96


def sample(names: Collection[str], size: int, seed: str) -> frozenset[str]:
    """The same names for the same seed; a change in one function exchanges few but its own mutants."""
    order = sorted(names, key=lambda name: hashlib.blake2b(f"{seed}:{name}".encode()).digest())
    return frozenset(order[:size])


def interval(hits: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z = hits / of, Z_95 * Z_95 / of
    middle, half = share + z / 2, Z_95 * math.sqrt(share * (1 - share) / of + z / (4 * of))
    return (middle - half) / (1 + z), (middle + half) / (1 + z)


def choose(pick: Callable[[Collection[str]], Collection[str]]) -> dict[str, Any]:
    """Let mutmut run only what `pick` takes of all mutants' names. The result fills while it runs: file by mutant."""
    everything, chosen = mutmut.collect_source_file_mutation_data, {}

    def collect(*, mutant_names: Collection[str]) -> tuple[list[Any], dict[str, Any]]:
        mutants, files = everything(mutant_names=())
        picked = pick([name for _, name, _ in mutants])
        kept = [mutant for mutant in mutants if mutant[1] in picked]
        chosen.update({name: file for file, name, _ in kept})
        print(f"\n{len(kept)} of {len(mutants)} mutants")
        return kept, files

    mutmut.collect_source_file_mutation_data = collect
    return chosen


def place(path: Path, mutant: str) -> tuple[int, str, list[str]]:
    """Line, function and changed lines of a mutant."""
    function, owner = orig_function_and_class_names_from_key(mutant)
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    if owner:
        tree = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner)
    begins = next(
        min([node.lineno, *(each.lineno for each in node.decorator_list)])
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
    )
    diff = get_diff_for_mutant(mutant, path=path).splitlines()[2:]
    first = int(diff[0].partition("-")[2].partition(",")[0].partition(" ")[0])
    changed = next(at for at, line in enumerate(diff[1:]) if line[:1] in "+-")
    lines = [f"{line[0]} {line[1:].strip()}" for line in diff if line[:1] in "+-"]
    return begins + first - 1 + changed, f"{owner}.{function}" if owner else function, lines


def report(chosen: dict[str, Any]) -> None:
    """The score, and each mutant that no test noticed."""
    found = {name: status_by_exit_code[file.exit_code_by_key[name]] for name, file in chosen.items()}
    count = Counter(found.values())
    noticed = sum(count[each] for each in NOTICED)
    low, high = interval(noticed, len(found))
    print("\nsurvivors by place")
    missed = [name for name, status in found.items() if status not in NOTICED]
    for path, line, where, lines, status in sorted((chosen[n].path, *place(chosen[n].path, n), found[n]) for n in missed):
        print(f"\n{path}:{line} {where}" + ("" if status == "survived" else f" ({status})"))
        print("\n".join(f"    {each}" for each in lines))
    print("\nby file: noticed of mutants")
    for file in sorted({file.path for file in chosen.values()}):
        of_file = [status in NOTICED for name, status in found.items() if chosen[name].path == file]
        print(f"  {sum(of_file):4} of {len(of_file):4}  {file}")
    functions = len({mangled_name_from_mutant_name(name) for name in chosen})
    print(
        f"\nmutants {len(found)} in {functions} functions, {', '.join(f'{status} {of}' for status, of in sorted(count.items()))}"
    )
    print(f"score {noticed / len(found):.1%} (95 % interval {low:.1%} to {high:.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description="Which changes do the unit tests notice?")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names of mutants; all of theirs run")
    parser.add_argument("--sample", type=int, default=360, help="how many, when no pattern is given (default: 360)")
    parser.add_argument("--seed", default="1", help="another seed, another sample (default: 1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()

    def pick(names: Collection[str]) -> Collection[str]:
        if args.patterns:
            return {name for name in names if any(fnmatch(name, pattern) for pattern in args.patterns)}
        return sample(names, args.sample, args.seed)

    shutil.rmtree(FOLDER, ignore_errors=True)  # what an earlier run left would count
    chosen = choose(pick)
    mutmut._run((), args.processes)
    report(chosen)


if __name__ == "__main__":
    main()
