"""Whatever is wrong on the command line: one clear line on standard error, exit code 2, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchbd.cli import main
from benchbd.errors import did_you_mean, one_line, shown
from benchbd.plan import matrix


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paln", "x"], "there is no verb 'paln'; did you mean 'plan'?"),
        (["x" * 10_000], "there is no verb 'xxx"),
        (["plan"], "the following arguments are required: MATRIX; see benchbd plan --help"),
        (["plan", "good.yaml", "--sed", "1"], "unrecognized arguments: --sed 1"),
        (["plan", "good.yaml", "--filt", "defense=lfd"], "unrecognized arguments: --filt"),
        (["plan", "good.yaml", "more"], "unrecognized arguments: more"),
        (["plan", "good.yaml", "--seeds"], "argument --seeds: expected one argument"),
        (["plan", "good.yaml", "--seeds", ""], "a seed must be a whole number"),
        (["plan", "good.yaml", "--seeds", "0-"], "a seed must be a whole number"),
        (["plan", "good.yaml", "--seeds", ",".join(["0-9999"] * 50) + ",10000-10001"], "more than 10,000 seeds"),
        (["plan", "good.yaml", "--filter", "defence=lfd"], "unknown key 'defence'; did you mean 'defense'?"),
        (["plan", "good.yaml", "--filter", "defense=ldf"], "did you mean 'lfd'?"),
        (["plan", "good.yaml", "--exclude", "defense=ldf"], "did you mean 'lfd'?"),
        (["plan", "good.yaml", "--set", "lfd.bta=1"], "lfd has no parameter 'bta'; did you mean 'beta'?"),
        (["plan", "good.yaml", "--set", "abl.lr=1"], "nothing in this matrix is called 'abl'"),
        (["plan", "good.yaml", "--set", "model=resnet19"], "no model is called 'resnet19'; did you mean 'resnet18'?"),
        (["plan", "good.yaml", "--output", "good.yaml"], "is a file, not a folder"),
        (["plan", "good.yaml", "--output", "a\0b"], "not a valid path"),
        (["plan", "good.yaml", "--output", "x" * 10_000], "not a valid path"),
        (["plan", "good.yaml", "--output", "x" * 3_000], "cannot be read (File name too long)"),
        (["plan", "good.yaml", "--output", "~nobody-of-that-name/x"], "no such home folder"),
        (["plan", "good.yaml", "--data", "nowhere"], "data folder 'nowhere': no such folder"),
        (["validate", "good.yaml", "--data", "good.yaml"], "data folder 'good.yaml': no such folder"),
        (["plan", "good.yaml", "--data", "a\0b"], "not a valid path"),
        (["plan", "good.yaml", "--plugin", "nowhere.py"], "plugin 'nowhere.py': no such file"),
        (["plan", "good.yaml", "--plugin", "."], "plugin '.': is a folder; name a Python file"),
        (["plan", "good.yaml", "--plugin", "a\0b"], "not a valid path"),
        (
            ["plan", "good.yaml", "--data", ""],
            "--data '': is empty; give a value (an unset variable?) or leave --data out",
        ),
        (["plan", "good.yaml", "--output", ""], "--output '': is empty"),
        (["status", "good.yaml", "--output", " "], "--output ' ': is empty"),
        (["leaderboard", "--write", ""], "--write '': is empty; give a value (an unset variable?) or leave --write"),
        (["leaderboard", "--check", "--write", ""], "--write '': is empty"),
        (["leaderboard", "--results", ""], "--results '': is empty"),
        (["leaderboard", ""], "MATRIX|FOLDER '': is empty; give a value (an unset variable?) or leave MATRIX|FOLDER"),
        (["leaderboard", "--results", "~nobody-of-that-name/x"], "no such home folder"),
        (["plot", "asr", "--write", ""], "--write '': is empty"),
        (["plot", "asr", "--out", " "], "--out ' ': is empty"),
        (["plot", "asr", "--out", "~nobody-of-that-name/x"], "no such home folder"),
        (["preview", "blend", "-o", ""], "--out '': is empty"),
        (["preview", "blend", "--dataset", "digits", "-o", "."], "it is a folder; name a file in it with -o"),
        (["preview", "blend", "-o", "~nobody-of-that-name/x"], "no such home folder"),
        (["env", "-o", ""], "--output '': is empty"),
        (["new", "attack", "x", "--into", ""], "--into '': is empty"),
        (["merge", "a", ""], "DIR '': is empty; give a value (an unset variable?)"),
        (["export", ""], "FILE '': is empty"),
        (["import", "", "--format", "npz", "--to", "a.npz"], "FOLDER '': is empty"),
        (["export-model", "ab", "--to", ""], "--to '': is empty; give a value (an unset variable?)"),
        (
            ["export-poison", "good.yaml", "--attack", "bn-g", "--format", "nab", "--to", ""],
            "--to '': is empty; give a",
        ),
        (["verify", "x", "--output", ""], "--output '': is empty"),
        (["verify", ""], "RESULTS '': is empty; give a value (an unset variable?)"),
        (["compare", "", "b"], "A '': is empty"),
        (["compare", "a", " "], "B ' ': is empty"),
        (["plot", ""], "FIGURE|MATRIX '': is empty"),
        (["prepare", " "], "MATRIX ' ': is empty"),
        *(
            (
                ["run", "good.yaml", flag, ""],
                f"{flag} '': is empty; give a value (an unset variable?) or leave {flag} out",
            )
            for flag in ("--gpus", "--shard", "--timeout", "--budget", "--data", "--output", "--executor-config")
        ),
        *((["run", "good.yaml", flag, ""], "") for flag in ("--filter", "--exclude", "--set", "--seeds", "--plugin")),
        (["run", "good.yaml", "--executor-config", "{a: 1}"], "is only for slurm and ray, not for --executor local"),
        (["run", "good.yaml", "--executor", "inline", "--executor-config", "{}"], "not for --executor inline"),
        (["run", "good.yaml", "--jobs", "1000000000"], "--jobs 1000000000: at most "),
        (["run", "good.yaml", "--jobs", "9" * 400], "99...: at most "),
        (["run", "good.yaml", "--jobs-per-gpu", "1000000000"], "--jobs-per-gpu 1000000000: at most "),
        (["run", "good.yaml", "--threads", "1000000000"], "--threads 1000000000: at most 1,024"),
        (["plan", "good.yaml", "--set", "attacks=bn-g"], "attacks is not a setting; --filter attack=GLOB chooses some"),
        (["plan", "good.yaml", "--set", "defense=lfd"], "defense is not a setting; --filter defense=GLOB chooses some"),
        (["plan", "good.yaml", "--set", "gate=0.4"], "change it in the matrix file, or give --gate to benchbd leader"),
        (["plan", "good.yaml", "--set", "blocks=[]"], "blocks is not a setting; change it in the matrix file"),
        (["plan", "good.yaml", "--set", "probe={losses: true}"], "name one entry, such as probe.losses=true"),
        (
            ["plan", "-a", "none", "-d", "bn-g", "--dataset", "digits"],
            "is called 'bn-g'; 'bn-g' is an attack",
        ),
        (["plan", "good.yaml", "--set", "seeds=3"], "seeds is a flag, not a setting; did you mean --seeds 3?"),
        (["plan", "good.yaml", "--set", "seeds=[0, 1]"], "did you mean --seeds 0,1?"),
        (["plan", "good.yaml", "--set", "seed = 3"], "did you mean --seeds 3?"),
        (["run", "good.yaml", "--set", "jobs=2"], "did you mean --jobs 2?"),
        (["plan", "good.yaml", "--set", "jobs=2"], "jobs is a flag, not a setting; did you mean --jobs 2?"),
        (["list", "atacks"], "nothing is called 'atacks'; did you mean 'attacks'?"),
        (["list", "atacks", "*"], "there is no kind 'atacks'; did you mean 'attacks'?"),
        (["list", "attacks", "nothing*"], "nothing is called 'nothing*'; known: adap-blend, adap-patch, blend"),
        (["list", "--plugin", "nowhere.py"], "plugin 'nowhere.py': no such file"),
        (["describe", "lfdd"], "nothing is called 'lfdd'; did you mean 'lfd'?"),
        (["describe", "lfd(beta=3)"], "nothing is called 'lfd(beta=3)'; did you mean 'lfd', without parameters?"),
        (["describe", "muon_lr"], "'muon_lr' is an entry of recipes: benchbd describe recipe shows it"),
        (["describe", "FAST"], "nothing is called 'FAST'; did you mean 'fast'?"),
        (["describe", "presets/fats"], "nothing is called 'presets/fats'; did you mean 'presets/fast'?"),
        (["describe", "attacks/lfd"], "nothing is called 'attacks/lfd'"),
        (["describe", "../../etc/passwd"], "nothing is called '../../etc/passwd'"),
        (["describe", "x" * 10_000], "nothing is called 'xxx"),
        (["show", "abc"], "no records in"),
        (["show", "../../etc/passwd", "--output", "."], "no records in"),
        (["prepare", "good.yaml", "--device", "abacus"], "--device 'abacus': must be auto, cpu, cuda or cuda:N"),
        (["prepare", "good.yaml", "--device", "cuda:99"], "no such device here"),
        (["prepare", "good.yaml", "--device", "meta"], "no such device here"),
    ],
    ids=lambda value: " ".join(w[:24] for w in value).replace("\0", "NUL") if isinstance(value, list) else "",
)
def test_flags_and_names(refused: Callable[..., str], words: list[str], told: str) -> None:
    assert told in refused(*words)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quikstart", "no such file, and no shipped matrix has that name; did you mean 'quickstart'?"),
        ("", "is empty; give a value (an unset variable?) or leave MATRIX out"),
        ("nowhere/good.yaml", "no such file"),
        ("good.yaml/x", "no such file"),
        (".", "is a folder; name the YAML file in it"),
        ("../../../../etc/passwd", "must be a mapping"),
        ("/etc/../etc/hostname", "must be a mapping"),
        ("/dev/zero", "is not a regular file"),
        ("/dev/stdin/x", "no such file"),
        ("../matrices/__init__", "no such file"),
        ("a\0b", "not a valid path"),
        ("x" * 10_000, "not a valid path"),
        ("x" * 300, "cannot be read (File name too long)"),
        ("\x1b[31mred", "no such file"),
        ("two\nlines", "no such file"),
        ("~nobody-of-that-name/x.yaml", "no such home folder"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_names_of_matrices(refused: Callable[..., str], name: str, told: str) -> None:
    if "etc" in name and not Path(name).exists():
        pytest.skip(f"this machine has no {name}")
    assert told in refused("plan", name)


def test_an_error_of_our_own_is_one_line_and_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raised: list[BaseException] = []

    def fail(*_: Any, **__: Any) -> None:
        raise raised.pop()

    monkeypatch.setattr(matrix, "load", fail)
    monkeypatch.delenv("BENCHBD_DEBUG", raising=False)
    for error, told in (
        (KeyError("two\nlines"), "KeyError: 'two\\nlines'"),
        (SystemExit(7), "RuntimeError: some code called sys.exit(7)"),
        (RuntimeError(), "RuntimeError"),
    ):
        raised.append(error)
        assert main(["plan", "quickstart"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err == (
            f"benchbd: internal error: {told}; please report it with the traceback that BENCHBD_DEBUG=1 shows\n"
        )


def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BENCHBD_DEBUG", "1")
    assert main(["plan", "nowhere.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.splitlines()[-1].startswith("benchbd: ")


def test_values_are_shown_short_in_one_line_whatever_they_are() -> None:
    for value in ("x" * 10_000, "a\n\x1b\0\ud800\u202e", 10**5000, [[1] * 1000], {"a": 10**5000}, object(), None):
        assert len(shown(value)) <= 75
        assert shown(value).isprintable()
    assert shown("x") == "'x'"
    assert one_line("a\n b\t\x07c") == "a b \\x07c"
    assert len(one_line("x" * 10_000)) == 1000


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("good", "good.yaml"),
        ("good.yml", "good.yaml"),
        ("g.yaml", ""),
        ("nowhere/good", ""),
        ("godo.yaml", "good.yaml"),
    ],
)
def test_a_matrix_file_beside_it_is_suggested(refused: Callable[..., str], given: str, meant: str) -> None:
    line = refused("validate", given)
    assert (f"did you mean {meant!r}?" in line) if meant else ("known: " in line)


def test_suggestions() -> None:
    assert did_you_mean("epoch", ["epochs", "lr"]) == "; did you mean 'epochs'?"
    assert did_you_mean("zzz", ["lr", "epochs", "lr"]) == "; known: epochs, lr"
    assert did_you_mean("zzz", []) == "; none is known"
    assert did_you_mean("EPOCHS", ["epochs", "lr"]) == "; did you mean 'epochs'?"
    assert did_you_mean("lr", ["LR", "lr"]) == "; did you mean 'lr'?"
