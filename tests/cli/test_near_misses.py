"""Verbs, options and names of other programs get one helpful line and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from benchbd import cli
from benchbd.cli import main, near_misses


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("run quickstart --gpu 0", "unrecognized arguments: --gpu 0; --gpus 0,1 and --device cuda select devices"),
        ("run --gpu=0 quickstart", "unrecognized arguments: --gpu=0; --gpus 0,1 and --device cuda select devices"),
        ("run --seed 3 quickstart", "--seeds 0-2 selects seeds"),
        ("run --dry-run", "benchbd plan MATRIX shows what a run would do"),
        ("run quickstart --workers 4", "--jobs N runs N cells at once"),
        ("run quickstart --num_workers 4", "--jobs N runs N cells at once"),
        ("status quickstart --workers 4", "in benchbd run, --jobs N runs N cells at once"),
        ("plan quickstart --epochs 2", "--set changes a setting, such as --set epochs=2"),
        ("run quickstart --shards 1/2", "did you mean '--shard'?"),
        ("plan quickstart --fliter defense=lfd", "did you mean '--filter'?"),
        ("leaderboard --out-dir x", "--output DIR names the results folder"),
        ("run quickstart --wholly-unknown", "unrecognized arguments: --wholly-unknown; see benchbd run --help"),
        ("train quickstart", "there is no verb 'train'; did you mean 'run'?"),
        ("results", "there is no verb 'results'; did you mean 'leaderboard'?"),
        ("help rnu", "help: there is no verb 'rnu'; did you mean 'run'?"),
    ],
)
def test_near_misses(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer in refusal(capsys, *words.split())


def test_answers_name_what_there_is() -> None:
    top = cli.parser()
    flags = {verb: {o for a in cli.verb_parser(top, verb)._actions for o in a.option_strings} for verb in cli.VERBS}
    for option, answer in near_misses.OPTIONS.items():
        assert option not in flags["run"]
        assert flags["run"].issuperset(answer.options)
    assert not set(near_misses.VERBS) & set(cli.VERBS)
    assert set(near_misses.VERBS.values()) <= set(cli.VERBS)


def test_options_with_values_that_look_like_options_are_left_to_argparse(told: Callable[..., str]) -> None:
    assert told("completion", "--for", "benchbd", "--wholly-unknown", "ru").startswith("run")


def test_help_and_version(told: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert told("version") == told("--version")
    with pytest.raises(SystemExit):
        cli.parser("run").parse_args(["run", "--help"])
    usual = capsys.readouterr().out
    assert told("help", "run") == usual
    assert told("help").startswith("usage: benchbd ")
    assert "benchbd run quickstart" in told("help", "run")


def test_describe_takes_usual_names(told: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    both = told("describe", "badnets")
    assert "attack bn-g (version" in both
    assert "attack bn-w (version" in both
    assert told("describe", "anti-backdoor-learning") == told("describe", "abl")
    assert "Also called: anti-backdoor-learning." in told("describe", "abl")
    assert json.loads(told("describe", "attacks/LC", "--json"))["name"] == "cl"
    assert "nothing is called 'nothing-like-it'" in refusal(capsys, "describe", "nothing-like-it")
