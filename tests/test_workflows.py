"""The workflow that checks a pull request's records: what it may do, and that no added line escapes it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    """.github/workflows/verify.yml."""
    given: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "verify.yml").read_text())
    return given


def test_a_request_runs_without_secrets_and_may_write_nothing(workflow: dict[Any, Any]) -> None:
    assert set(workflow[True]) == {"pull_request"}  # YAML reads the key "on" as true
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "permissions" not in job
    checkout = job["steps"][0]
    assert checkout["with"]["persist-credentials"] is False
    text = (ROOT / ".github" / "workflows" / "verify.yml").read_text()
    assert "secrets." not in text
    assert "${{" not in text  # nothing of the request is put into a command


def git(folder: Path, *words: str) -> None:
    """Run git with an identity of its own and without the user's settings."""
    given = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    given |= {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, env={**os.environ, **given})


CHANGES: dict[str, tuple[dict[str, bytes], bytes]] = {
    "plain": ({"results.jsonl": b'{"a": 1}\n{"b": 2}\n'}, b'{"b": 2}\n'),
    "a blank first": ({"results.jsonl": b'{"a": 1}\n {"b": 2}\n\t{"c": 3}\n'}, b' {"b": 2}\n\t{"c": 3}\n'),
    "a binary byte": ({"results.jsonl": b'{"a": 1}\n{"b": "\0"}\n'}, b'{"b": "\0"}\n'),
    "an attribute": (
        {"results.jsonl": b'{"a": 1}\n{"b": 2}\n', "../.gitattributes": b"*.jsonl -diff binary\n"},
        b'{"b": 2}\n',
    ),
    "another file": ({"figures.jsonl": b'{"b": 2}\n'}, b'{"b": 2}\n'),
    "removed": ({"results.jsonl": b""}, b""),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_every_added_line_is_collected(workflow: dict[Any, Any], kind: str, tmp_path: Path) -> None:
    files, added = CHANGES[kind]
    board = tmp_path / "leaderboard"
    board.mkdir()
    git(tmp_path, "init", "-q", "-b", "request")
    (board / "results.jsonl").write_bytes(b'{"a": 1}\n')
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "base")
    git(tmp_path, "update-ref", "refs/remotes/origin/main", "HEAD")
    for name, text in files.items():
        (board / name).write_bytes(text)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "request")
    assert _collected(workflow, tmp_path, "main") == added


def test_a_base_that_is_not_there_stops_the_workflow(workflow: dict[Any, Any], tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    with pytest.raises(subprocess.CalledProcessError):
        _collected(workflow, tmp_path, "main")


def _collected(workflow: dict[Any, Any], folder: Path, base: str) -> bytes:
    """Run the step that collects records, as GitHub does (bash -e, without pipefail)."""
    (job,) = workflow["jobs"].values()
    (step,) = [step for step in job["steps"] if step.get("name") == "Collect the added records"]
    environment = {**os.environ, "GITHUB_BASE_REF": base}
    command = ["bash", "-e", "-c", step["run"]]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
    return (folder / "added.jsonl").read_bytes()


def test_the_site_is_published_as_make_docs_builds_it() -> None:
    """Only the job that publishes may write, only on a push, and only to Pages; the artifact is the built folder."""
    given: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text())
    assert given["permissions"] == {"contents": "read"}
    assert given[True]["push"] == {"branches": ["main"]}
    build, publish = given["jobs"]["build"], given["jobs"]["publish"]
    assert "permissions" not in build
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert publish["needs"] == "build"
    assert publish["if"] == "github.event_name == 'push'"
    assert publish["environment"]["name"] == "github-pages"
    assert publish["concurrency"]["cancel-in-progress"] is False
    makefile = (ROOT / "Makefile").read_text().partition("\ndocs: ")[2].partition("\n\n")[0]
    made = [line.removeprefix("\t$(BIN)/python ") for line in makefile.splitlines() if line.startswith("\t")]
    assert len(made) == 2
    steps = [step["run"] for step in build["steps"] if "run" in step]
    assert made[0].removeprefix("-m ").replace(" --quiet", "") in steps
    assert f"python {made[1]}" in steps
    (artifact,) = [step["with"]["path"] for step in build["steps"] if "upload-pages-artifact" in step.get("uses", "")]
    tool = (ROOT / "tools" / "build_site.py").read_text()
    assert 'ROOT / "build" / "site"' in tool
    config = (ROOT / "mkdocs.yml").read_text()
    folder = next((x.split(":")[1].strip() for x in config.splitlines() if x.startswith("site_dir:")), "site")
    assert artifact == f"build/site/{folder}"
    uses = [step["uses"] for job in given["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all("@v" in name for name in uses)
