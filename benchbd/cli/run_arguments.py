"""The flags of ``run`` and ``rerun``, and the run settings built from them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import flag_words, output_folder, refuse_empty
from benchbd.cli.one_off import given_flags
from benchbd.core.paths import user_path
from benchbd.errors import UsageError, did_you_mean, one_line, shown

if TYPE_CHECKING:
    from benchbd.run.display.base import Display
    from benchbd.run.settings import RunSettings

CONFIGURED = ("slurm", "ray")
"""Executors with their own settings."""
DEFAULTS = {"executor": "local", "device": "auto", "jobs_per_gpu": 1, "retries": 0, "fail_fast": False}
HOW = (
    *("executor", "executor_config", "device", "jobs", "gpus", "jobs_per_gpu", "threads"),
    *("timeout", "retries", "fail_fast", "budget", "shard"),
)
"""Arguments of ``run`` that say how to run cells, and how many threads each has."""


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how to run cells. None of them changes a result."""
    where = parser.add_argument_group("where")
    where.add_argument(
        "--executor",
        choices=("inline", "local", "slurm", "ray"),
        default="local",
        help="default: local, each cell in a process of its own; inline: all cells in this process, for debuggers",
    )
    where.add_argument("--executor-config", metavar="YAML", help="settings for slurm or ray: a file, or {key: value}")
    where.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the visible GPUs, else the CPU"
    )
    where.add_argument(
        "-j", "--jobs", metavar="N", type=int, help="cells to run at once (default: one per GPU, or one per core)"
    )
    where.add_argument("--gpus", metavar="LIST", help="GPUs to use, such as 0,1 (default: all visible)")
    where.add_argument(
        "--jobs-per-gpu",
        metavar="N",
        type=int,
        default=1,
        help="cells that share a GPU (default: 1); their times are not comparable",
    )
    when = parser.add_argument_group("when to try, when to stop")
    when.add_argument(
        "--timeout",
        metavar="TIME",
        help="time limit for one cell, such as 2h; waiting for shared stages does not count",
    )
    when.add_argument(
        "--retries", metavar="N", type=int, default=0, help="try a failed cell up to N more times (default: 0)"
    )
    when.add_argument("--fail-fast", action="store_true", help="stop at the first cell that fails")
    when.add_argument(
        "--budget", metavar="TIME", help="stop cleanly after this time, such as 25m; run again to continue"
    )
    parser.add_argument(
        "--display",
        choices=("auto", "rich", "plain", "none"),
        default="auto",
        help="default: rich on a terminal, plain otherwise",
    )
    parser.add_argument(
        "--log",
        metavar="TRACKER",
        action="append",
        default=[],
        help="also send losses, results and hashes to tensorboard, mlflow or wandb; may be repeated",
    )
    parser.add_argument("--execute", help=argparse.SUPPRESS)


def read_config(given: str | None) -> dict[str, Any]:
    """Read ``--executor-config``: a YAML file, or a mapping in YAML. Raises UsageError."""
    if given is None:
        return {}
    from benchbd.plan.matrix_file import parse_yaml

    text = given
    if not given.lstrip().startswith("{"):
        try:
            file = Path(given).expanduser()
            if file.is_fifo() and not given.startswith(("/dev/", "/proc/")):  # <(...) of a shell is one of these
                raise ValueError("it is a pipe, which may never end")
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"--executor-config {one_line(given[:200])}: cannot be read ({error})") from error
    try:
        config = parse_yaml(text)
    except UsageError as error:
        raise UsageError(f"--executor-config {one_line(given[:200])}: {error}") from error
    if config is None:
        return {}
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UsageError(f"--executor-config {one_line(given[:200])}: must be a mapping such as {{partition: gpu}}")
    return config


def run_settings(args: argparse.Namespace, **more: Any) -> RunSettings:
    """Build the run settings from the arguments. Raises UsageError."""
    from benchbd.plugins import registry
    from benchbd.run.settings import EXECUTE, RunSettings, parse_duration, parse_gpus, parse_shard
    from benchbd.run.workers.slots import check_numbers

    refuse_empty(args, "executor_config", "gpus", "timeout", "budget", "shard")
    if args.executor_config is not None and args.executor not in CONFIGURED:
        raise UsageError(
            f"--executor-config is only for {' and '.join(CONFIGURED)}, not for --executor {args.executor}; "
            "leave it out or choose one of these executors"
        )
    check_log(args)
    output = output_folder(args)
    shard = getattr(args, "shard", None)
    settings = RunSettings(
        output=output.resolve(),
        data_root=str(user_path(args.data, "--data").resolve()) if args.data else None,
        plugins=tuple(registry.plugin_files()),
        device=args.device,
        executor=args.executor,
        executor_config=read_config(args.executor_config),
        jobs=args.jobs,
        gpus=None if args.gpus is None else parse_gpus(args.gpus),
        jobs_per_gpu=args.jobs_per_gpu,
        threads=args.threads,
        timeout=None if args.timeout is None else parse_duration(args.timeout, "--timeout"),
        retries=args.retries,
        fail_fast=args.fail_fast,
        budget=None if args.budget is None else parse_duration(args.budget, "--budget"),
        shard=None if shard is None else parse_shard(shard),
        execute=args.execute or EXECUTE,
        **more,
    )
    check_numbers(settings)
    return settings


def display_of(args: argparse.Namespace) -> Display:
    """The display of ``--display``, with the trackers of ``--log`` behind it.

    Raises:
        UsageError: a tracker is unknown, or its package is missing.
    """
    from benchbd.run.display.choose import make_display

    shown_to = make_display(args.display)
    if not args.log:
        return shown_to
    from benchbd.run.tracking import TrackedDisplay, make_tracker

    output = output_folder(args).resolve()
    return TrackedDisplay(shown_to, {name: make_tracker(name, output) for name in check_log(args)})


def check_log(args: argparse.Namespace) -> list[str]:
    """The trackers of ``--log``, each once. Raises UsageError if one is unknown, or its package is missing."""
    if not args.log:
        return []
    from benchbd.run.tracking import TRACKERS, check_trackers

    names = list(dict.fromkeys(name.strip() for given in args.log for name in given.split(",")))
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"--log {shown(name)}: not a tracker{did_you_mean(name, TRACKERS)}")
    check_trackers(names)
    return names


def same_command(args: argparse.Namespace, *extra: str) -> str:
    """The command that runs the same cells again, ready to paste into a shell."""
    cells = [args.matrix] if args.matrix is not None else [word for pair in given_flags(args) for word in pair]
    words = ["benchbd", "run", *cells, "--output", args.output]
    words += flag_words(args, "data", "filter", "exclude", "set", "plugin", "seeds", "precision", "smoke", "log")
    words += flag_words(args, *(name for name in HOW if getattr(args, name) != DEFAULTS.get(name)))
    return shlex.join([*words, *extra])
