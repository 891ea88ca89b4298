"""The command line, from `serve` to `mock-vllm`. Each command imports only what it needs."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from router import __version__
from router.errors import ConfigError, Problem

if TYPE_CHECKING:
    from router.inference.bundle import Bundle
    from router.runtime.program import Program

CONFIG_STATUS = 2
"""Exit status for every problem that the operator has to fix."""

FIRST_CURL = """curl -X POST http://localhost:{port}/v1/chat/completions \\
  -H "Content-Type: application/json" -H "Authorization: Bearer test-token" \\
  -d '{{"model":"auto","messages":[{{"role":"system","content":"You are a helpful assistant."}},\
{{"role":"user","content":"What are the main renewable energy sources?"}}],"temperature":0.7}}'"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for a failure, 2 for a problem that the operator has to fix."""
    options = _parser().parse_args(argv)
    try:
        status: int = options.run(options)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return CONFIG_STATUS
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has ended, as `head` does
        return 0
    return status


# -- commands --------------------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    """Run the router: a supervisor and its workers."""
    # SIGHUP asks the supervisor for a restart. Until the supervisor handles it, and in workers, it is ignored.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if options.worker is not None:
        return _work(options)
    from router.runtime.program import read_program, refuse_moves
    from router.runtime.workers import supervise
    from router.telemetry.logs import Logs

    def read_again(running: Program) -> Program:
        program = read_program(options.config, options.admin)
        refuse_moves(options.config, running, program)
        return program

    program = read_program(options.config, options.admin)
    logs = Logs(program.log_level, access_log=False)
    try:
        return _run(supervise(program, program.addresses[1] or None, read_again))
    finally:
        logs.close()


def _work(options: argparse.Namespace) -> int:
    """Run one worker, with the files that the supervisor read."""
    from router.config.load import load
    from router.files import Files, replayed
    from router.runtime.build import build
    from router.runtime.process import Supervised
    from router.runtime.process import serve as serve_one
    from router.runtime.supervisor import PROBLEM, report, taken_over

    files = Files.load(taken_over(options.files_fd))
    by = Supervised(options.worker, options.admin, options.parent_fd, options.report_fd)
    try:
        with replayed(files):
            config = load(options.config)
            files.check()
            runtime = build(config)
        return _run(serve_one(runtime, by))
    except ConfigError as error:
        # A part that does not know the file's name says "config".
        named = (replace(each, file=str(options.config)) if each.file == "config" else each for each in error.problems)
        report(by.report_fd, *(f"{PROBLEM}{problem}" for problem in named))
        return CONFIG_STATUS


def restart(options: argparse.Namespace) -> int:
    """Have a running router read its configuration again and replace its workers one by one."""
    from router.cli.adminport import admin_port
    from router.cli.restart import restart as restart_at

    return restart_at(admin_port(options, "; send SIGHUP to the process of `semantic-router serve` instead"))


def up(options: argparse.Namespace) -> int:
    """Run Envoy, the router and mock vLLM backends on this machine."""
    from router.devstack.up import plan_of, run

    report_problems(options)
    plan, port = plan_of(options.config, options.envoy)
    greeting = f"\nready. Try:\n\n{FIRST_CURL.format(port=port)}\n\nCtrl-C stops everything.\n"
    print(
        f"starting {', '.join(plan.commands)} ... Until the router is ready, Envoy warns that it has no healthy one.", flush=True
    )
    return _run(run(plan, lambda: print(greeting, flush=True)))


def check(options: argparse.Namespace) -> int:
    """Validate the router's configuration and Envoy's together."""
    for line in report_problems(options):
        print(line)
    print("ok")
    return 0


def report_problems(options: argparse.Namespace) -> list[str]:
    """Print the warnings of both files and return the summary.

    Raises:
        ConfigError: the two files have errors.
    """
    from router.envoy.check import check as check_files

    report = check_files(options.config, options.envoy)
    errors = [problem for problem in report.problems if problem.severity == "error"]
    if errors:
        raise ConfigError(report.problems)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    return report.summary


def explain(options: argparse.Namespace) -> int:
    """Say where a request would go and why."""
    from router.cli.explain import explained

    for line in explained(options):
        print(line)
    return 0


def models(options: argparse.Namespace) -> int:
    """List the configured models, and the encoder and the verifier with their checksums."""
    from router.config.load import load
    from router.inference.bundle import Bundle

    config = load(options.config)
    for model in config.models.values():
        mark = "  (default)" if model is config.default_model else ""
        print(f"{model.name:24} cluster {model.cluster}, reasoning {model.reasoning_family or 'left alone'}{mark}")
    for alias in config.virtual_models:
        print(f"{alias:24} the rules choose")
    if config.signals.encoder.enabled:
        bundle = Bundle.load(config.signals.encoder.model_path)
        heads = bundle.heads
        print(f"\nintent: {bundle.name} {bundle.version}, threshold {config.signals.intent.threshold}, in {bundle.folder}")
        for what, names in (
            ("categories", heads.get("intent", ())),
            ("attacks", heads.get("attack", ())[1:]),
            ("personal data", heads.get("personal", ())),
            ("quality_profile", heads.get("outcomes", ())),
        ):
            print(f"  {what}: {', '.join(names) or 'not supported by this model'}")
        _print_files(bundle)
    if config.cache.enabled and config.cache.verifier:
        verifier = Bundle.load(config.cache.verifier)
        print(f"\nverifier: {verifier.name} {verifier.version}, in {verifier.folder}")
        _print_files(verifier)
    return 0


def _print_files(bundle: Bundle) -> None:
    for name, digest in bundle.sha256.items():
        print(f"  {name:16} sha256 {digest}")


def operate_cache(options: argparse.Namespace) -> int:
    """Inspect or change a running router's cache."""
    from router.cli.adminport import admin_port
    from router.cli.cache import asker

    status: int = options.operate(options, asker(admin_port(options)))
    return status


def mock_vllm(options: argparse.Namespace) -> int:
    """Run mock vLLM backends. The first one also serves `auto` and `MoM`, as the default cluster's vLLM should."""
    from router.devstack.vllm import Backend, run

    backends = []
    for index, (name, host, port) in enumerate(options.backends):
        backends.append(Backend(name, host, port, aliases=("auto", "MoM") if index == 0 else ()))
    lines = "".join(f"mock {backend.name} on {backend.host}:{backend.port}\n" for backend in backends)
    try:
        return _run(_no_status(run(backends, lambda _: print(lines, end="", flush=True))))
    except OSError as error:
        raise ConfigError([Problem("mock-vllm", 0, "", f"cannot listen: {error.strerror or error}")]) from None


# -- parsing ---------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="semantic-router", description="A semantic router for LLM traffic behind Envoy.")
    parser.add_argument("--version", action="version", version=f"semantic-router {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config", type=Path, default=Path("config/config.yaml"), help="the router's configuration; default: %(default)s"
    )
    envoy = argparse.ArgumentParser(add_help=False)
    envoy.add_argument("--envoy", type=Path, default=Path("envoy/envoy.yaml"), help="Envoy's configuration; default: %(default)s")

    command = commands.add_parser("serve", parents=[config], help="run the router; Envoy is started separately")
    command.add_argument("--admin", metavar="ADDRESS", help="host:port or unix:/path of the admin port; default: as configured")
    command.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    for fd in ("--parent-fd", "--report-fd", "--files-fd"):
        command.add_argument(fd, type=int, help=argparse.SUPPRESS)
    command.set_defaults(run=serve)

    command = commands.add_parser(
        "restart", parents=[config], help="make a running router use a changed configuration, without losing a request"
    )
    command.add_argument("--admin", metavar="ADDRESS", help="host:port or unix:/path of its admin port; default: as configured")
    command.set_defaults(run=restart)

    command = commands.add_parser(
        "up", parents=[config, envoy], help="run Envoy, the router and mock vLLM backends on this machine"
    )
    command.set_defaults(run=up)
    command = commands.add_parser(
        "check", parents=[config, envoy], help="validate the router's and Envoy's configuration together"
    )
    command.set_defaults(run=check)

    from router.cli.explain import add_options

    command = commands.add_parser("explain", parents=[config], help="show where a prompt would go and why")
    add_options(command)
    command.set_defaults(run=explain)

    command = commands.add_parser("models", parents=[config], help="list the configured models, the encoder and the verifier")
    command.set_defaults(run=models)

    from router.cli.help import complete
    from router.cli.models import add_commands as add_model_commands

    add_model_commands(commands)
    _add_cache(commands, config)
    command = commands.add_parser("mock-vllm", help="run mock vLLM backends")
    command.add_argument(
        "backends",
        nargs="+",
        type=_backend,
        metavar="NAME=HOST:PORT",
        help="served name and address of a backend; the first backend also serves `auto` and `MoM`",
    )
    command.set_defaults(run=mock_vllm)
    complete(parser)
    return parser


def _add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser], config: argparse.ArgumentParser) -> None:
    from router.cli.cache import add_commands
    from router.cli.help import commands_of

    command = commands.add_parser("cache", parents=[config], help="inspect or change a running router's cache")
    command.add_argument("--admin", metavar="ADDRESS", help="host:port or unix:/path of the admin port; default: as configured")
    add_commands(command)
    command.set_defaults(run=operate_cache)
    for _, operation in commands_of(command):  # the options may also stand behind the operation
        operation.add_argument(
            "--config", type=Path, default=argparse.SUPPRESS, help="the router's configuration, which names its admin port"
        )
        operation.add_argument("--admin", metavar="ADDRESS", default=argparse.SUPPRESS, help="the address of the admin port")


def _backend(text: str) -> tuple[str, str, int]:
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    if not name or not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=HOST:PORT, such as small=127.0.0.1:8101")
    return name, host, int(port)


# -- running ---------------------------------------------------------------------------------------------------------


def _run(work: Coroutine[object, object, int]) -> int:
    """Run a coroutine to its exit status. uvloop, if installed, saves 10 to 15% of the CPU time of a request."""
    # Ctrl-C ends the process without a traceback, until the loop handles it.
    signal.signal(signal.SIGINT, _interrupted)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def _interrupted(signum: int, frame: object) -> NoReturn:
    sys.exit(130)


async def _no_status(work: Coroutine[object, object, None]) -> int:
    await work
    return 0
