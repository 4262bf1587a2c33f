"""What the documents say is so: commands parse or run, links lead somewhere, code works, defaults are the code's."""

from __future__ import annotations

import ast
import csv
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from benchbd import testing
from benchbd.cli import VERBS, main, parser, verb_parser
from benchbd.cli.common import load_plan
from benchbd.cli.plot import FIGURES
from benchbd.core import params
from benchbd.core.recipe import Recipe
from benchbd.errors import UsageError
from benchbd.plan import matrix, matrix_file
from benchbd.plan.absent_files import AbsentFiles
from benchbd.plugins import registry
from benchbd.report.figures import panels, plots
from benchbd.storage import results_file as report_records

ROOT = Path(__file__).parents[1]
IMPORTING = ROOT / "docs" / "importing.md"
FOLDERS = "docs|matrices|tests|benchmarks|tools|leaderboard|benchbd"
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TINY = ["--set", "dataset.train=200", "--set", "dataset.test=100", "--set", "epochs=1", "--seeds", "0"]
"""What the tutorial's matrix is shrunk by here."""


class Block(NamedTuple):
    """A code block: its language, the file it is said to be, its text."""

    language: str
    file: str | None
    text: str


def blocks(path: Path) -> list[Block]:
    found = re.findall(r"^```([a-z]*)(?: file=(\S+))?\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, file or None, text) for language, file, text in found]


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def written_out(text: str) -> list[str]:
    """Lines of a shell block, continued ones joined, arrays that it sets put in, loops unrolled."""
    text = re.sub(r"\\\n\s*", " ", text)
    for loop, name, values, body in re.findall(r"^(for (\w+) in ([^;]+); do (.*); done)$", text, re.MULTILINE):
        text = text.replace(loop, "\n".join(body.replace(f"${name}", value) for value in values.split()))
    for name in re.findall(r"^(\w+)=\(.*\)$", text, re.MULTILINE):  # an array may hold earlier ones
        (value,) = re.findall(rf"^{name}=\((.*)\)$", text, re.MULTILINE)
        text = text.replace(f'"${{{name}[@]}}"', value)
    return text.splitlines()


def commands(path: Path) -> list[str]:
    """Every command in a document: lines of code blocks and of indented text, and what stands between backticks."""
    lines = [line for block in blocks(path) if block.language in ("", "sh", "bash") for line in written_out(block.text)]
    lines += re.findall(r"^ {4}(\S.*)$", prose(path), re.MULTILINE)
    lines += re.findall(r"`([^`\n]+)`", prose(path))
    cut = [re.split(r"\s+#|\s+->", line)[0].strip() for line in lines]
    return [line for line in cut if re.match(r"(benchbd|make|python|pip|ray) ", line)]


ALL = [pytest.param(path, line, id=f"{path.name}: {line}") for path in DOCS for line in dict.fromkeys(commands(path))]


@pytest.mark.parametrize(("path", "line"), ALL)
def test_every_command_is_one(path, line, fresh_registry):
    program, *words = shlex.split(line)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
        variables = [word.partition("=")[0] for word in words if "=" in word]
        assert [w for w in words if "=" not in w and w not in targets] == []
        assert [name for name in variables if f"$({name})" not in makefile] == []
    elif program == "pip":
        extras = re.findall(r"benchbd\[(\w+)\]", line)
        text = (ROOT / "pyproject.toml").read_text()
        assert [extra for extra in extras if f"\n{extra} = [" not in text] == []
        assert words[0] == "install"
    elif program == "benchbd":
        if len(words) == 1:  # a verb that is spoken of
            assert words[0] in VERBS
            return
        args = parser().parse_args(["new", "attack", "x"] if words[0] == "new" and "NAME" in words else words)
        shipped = getattr(args, "matrix", None) in matrix.shipped()
        if args.verb == "plot" and "|" not in line:
            assert args.figure in (*FIGURES, *matrix.shipped())
        if shipped and not getattr(args, "plugin", None) and args.verb in ("run", "plan", "validate", "prepare"):
            args.data = None
            assert load_plan(args).cells


def test_a_shell_passes_every_command_on_as_it_is():
    """zsh refuses a pattern that matches no file; bash replaces one that does."""
    helps = [line.strip() for verb in VERBS for line in verb_parser(parser(verb), verb).format_help().splitlines()]
    shown = [line for path in DOCS for line in commands(path)] + [line for line in helps if line.startswith("benchbd ")]
    bare = {line: re.sub(r"'[^']*'|\"[^\"]*\"", "", re.split(r"\s{2,}", line)[0]) for line in shown}
    assert len(bare) > 100
    assert [line for line, rest in bare.items() if re.search(r"[][*?(){}|;&$]", rest)] == []


def test_no_command_needs_a_shell_that_splits_variables():
    """zsh hands a variable of several words on as one word."""
    shells = [block.text for path in DOCS for block in blocks(path) if block.language in ("", "sh", "bash")]
    assert len(shells) > 30
    assert [line for text in shells for line in re.findall(r"^\w+=['\"][^'\"\n]*\s[^\n]*", text, re.MULTILINE)] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if link.startswith(("https://", "mailto:")):
            continue
        assert not link.startswith("http:"), link
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            made = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in made, f"{path.name} links to {link}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_matrix_shown_is_one(path, tmp_path, fresh_registry):
    for block in blocks(path):
        if block.language == "yaml" and re.search(r"dataset:.*defenses:", block.text, re.DOTALL) and not block.file:
            absent = AbsentFiles(refuse_mistakes=True)  # as for plan: only files of the reader's may be missing
            assert matrix.resolve(matrix_file.parse(block.text, path.name), path.name, absent=absent).cells


def test_files_named_in_prose_exist():
    named = {name for path in DOCS for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]+\.\w+)`", prose(path))}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_defense_of_the_readme_keeps_its_promises(tmp_path, fresh_registry, one_thread):
    (code,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    (tmp_path / "my_defense.py").write_text(code)
    registry.add_plugin_file(str(tmp_path / "my_defense.py"))
    assert testing.check("defenses", "trim") == []


def test_every_python_block_is_python():
    for path in DOCS:
        for block in blocks(path):
            if block.language == "python":
                ast.parse(block.text)


@pytest.mark.timeout(1200)
def test_the_plugin_tutorial_leads_to_a_leaderboard_row(tmp_path, monkeypatch, capsys, fresh_registry, one_thread):
    """docs/plugins.md from its first line to its last, in an empty folder; the matrix is shrunk to seconds."""
    monkeypatch.chdir(tmp_path)
    known = set(registry.plugin_files())
    said = {}
    for block in blocks(ROOT / "docs" / "plugins.md"):
        if block.file:
            Path(block.file).write_text(block.text)
        for line in block.text.splitlines() if block.language == "sh" else ():
            program, *words = shlex.split(line)
            if program == "python":
                done = subprocess.run(
                    [sys.executable, *words, "-p", "no:cacheprovider"], capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, done.stdout
                continue
            assert program == "benchbd"
            if "cautious.yaml" in words and words[0] in ("run", "leaderboard", "plan"):
                words += TINY
            if words[0] == "run":
                words += ["--executor", "inline", "--device", "cpu", "--display", "none"]
            assert main(words) == 0, (line, capsys.readouterr())
            said[line] = capsys.readouterr().out
            # Every command is a process of its own where people type them.
            for file in set(registry.plugin_files()) - known:
                registry.forget_plugin_file(file)
    board = said["benchbd leaderboard cautious.yaml"]
    assert "| cautious" in board
    assert "random-filter" in board
    assert "passes all" in said["benchbd check cautious --plugin cautious.py"]
    estimate = said["benchbd plan -a bn-g -d tuned --dataset digits --plugin tuned.py --time"]
    assert "1 x fine-tune" in estimate.partition("time left")[2]
    assert "not included" not in estimate
    assert Path("striped.png").exists()


def test_a_csv_folder_as_shown_is_a_data_set(tmp_path, monkeypatch, capsys, one_thread):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "mydata" / "signs" / "a"
    folder.mkdir(parents=True)
    rows = ["file,label,split"]
    for n in range(8):
        Image.new("RGB", (40, 32), (20 * n, 0, 0)).save(folder / f"{n}.png")
        rows.append(f"a/{n}.png,{('stop', 'yield')[n % 2]},{'train' if n < 4 else 'test'}")
    (folder.parent / "labels.csv").write_text("\n".join(rows))
    text = (ROOT / "docs" / "plugins.md").read_text()
    assert all(column in text for column in ("file,label,split", "mydata/signs/labels.csv"))
    (line,) = (line for line in commands(ROOT / "docs" / "plugins.md") if "csv-folder" in line)
    assert main(shlex.split(line)[1:]) == 0, capsys.readouterr()


def test_the_examples_of_the_library_run(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaderboard").mkdir()
    shutil.copy(ROOT / "leaderboard" / "results.jsonl", tmp_path / "leaderboard")
    space: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "library.md"):
        if block.language == "python":
            exec(compile(block.text, "docs/library.md", "exec"), space)
    said = capsys.readouterr().out
    assert said.count("done") >= 4
    assert "detection.auroc" in said
    columns = re.findall(r"`((?:detection|poison|time|env)\.\w+)`", (ROOT / "docs" / "library.md").read_text())
    assert [name for name in columns if name not in space["results"]] == []


def test_a_list_of_poisoned_files_becomes_an_attack(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part, label, level in (("train", "go", 10), ("train", "stop", 20), ("test", "go", 30), ("triggered", "go", 40)):
        (tmp_path / "photos" / part / label).mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGB", (32, 32), (level + number,) * 3)
            image.save(tmp_path / "photos" / part / label / f"{number}.png")
    (tmp_path / "photos" / "poisoned.txt").write_text("train/stop/1.png\ntrain/stop/2.png\n")
    (code,) = (b.text for b in blocks(IMPORTING) if b.language == "python" and not b.file)
    exec(compile(code, "docs/importing.md", "exec"), {})
    assert main(["import", "photos", "--format", "csv", "--to", "photos.npz"]) == 0
    said = capsys.readouterr().out
    assert "6 training images of 32 pixels, 2 poisoned, 0 covers, 3 triggered and 3 clean test images" in said


def run_script(name: str) -> None:
    (code,) = (block.text for block in blocks(IMPORTING) if block.file == name)
    exec(compile(code, name, "exec"), {})


def test_arrays_of_python_become_an_attack(tmp_path, monkeypatch, capsys):
    """The scripts of docs/importing.md as they are, on what torch.save and pickle write."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
    labels = np.arange(20) % 4
    labels[[1, 2]] = 0
    floats, test = torch.from_numpy(images / np.float32(255)), torch.from_numpy(np.arange(20) % 4)
    torch.save(torch.utils.data.TensorDataset(floats, torch.from_numpy(labels)), "train.pt")
    torch.save([(image, 0) for image in 1 - floats], "triggered.pt")
    torch.save([(image, int(label)) for image, label in zip(floats, test, strict=True)], "test.pt")
    np.save("poison_indices.npy", np.array([1, 2]))
    Path("cifar-10-batches-py").mkdir()
    for number in range(1, 6):
        rows = slice(4 * (number - 1), 4 * number)
        batch = {"data": images[rows].reshape(4, -1), "labels": labels[rows].tolist()}
        Path(f"cifar-10-batches-py/data_batch_{number}").write_bytes(pickle.dumps(batch))
    whole = {"data": images.reshape(20, -1), "labels": test.tolist()}
    Path("cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(whole))
    for script, triggered in (("from_torch.py", 20), ("from_batches.py", 0)):
        run_script(script)
        assert main(["import", "arrays.npz", "--format", "npz", "--to", "set.npz"]) == 0
        said = capsys.readouterr().out
        count = f"20 training images of 32 pixels, 2 poisoned, 0 covers, {triggered} triggered and 20 clean test images"
        assert count in said
        with np.load("set.npz", allow_pickle=False) as made:
            np.testing.assert_array_equal(made["images"], images)
            np.testing.assert_array_equal(made["labels"], labels)


SAVE_TO_DISK = """
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL.Image import new

features = Features(image=Image(), label=Value("int64"), poisoned=Value("bool"))
pictures = [new("RGB", (32, 32), (level, 0, 0)) for level in range(8)]
rows = {"image": pictures, "label": [0, 1] * 4, "poisoned": [True] + [False] * 7}
DatasetDict(train=Dataset.from_dict(rows, features=features)).save_to_disk("set")
"""


def test_a_data_set_of_the_package_datasets_becomes_an_attack(tmp_path, monkeypatch, capsys):
    """In other processes: this checkout has a folder of the package's name."""
    monkeypatch.chdir(tmp_path)
    Path("save.py").write_text(SAVE_TO_DISK)
    (code,) = (block.text for block in blocks(IMPORTING) if block.file == "from_datasets.py")
    Path("from_datasets.py").write_text(code)
    if subprocess.run([sys.executable, "-c", "from datasets import load_from_disk"], check=False).returncode:
        pytest.skip("needs the package datasets")
    subprocess.run([sys.executable, "save.py"], check=True)
    assert main(["import", "set", "--format", "hf", "--to", "set.npz"]) == 2
    assert "set is a data set of save_to_disk(); write each part with to_parquet()" in capsys.readouterr().err
    subprocess.run([sys.executable, "from_datasets.py"], check=True)
    for place in ("parts", "parts/train.parquet"):
        assert main(["import", place, "--format", "hf", "--to", "set.npz"]) == 0
        assert "8 training images of 32 pixels, 1 poisoned" in capsys.readouterr().out


def stated() -> list[tuple[str, str, str]]:
    """Every default that docs/methods.md states: plugin, parameter, value as written."""
    text = (ROOT / "docs" / "methods.md").read_text()
    return [
        (plugin, name, value) for plugin, name, value in re.findall(r"`([a-z][\w-]*)\.([a-z]\w*)(?: = ([^`]+))?`", text)
    ]


@pytest.mark.parametrize(("plugin", "name", "value"), stated())
def test_the_defaults_that_methods_states_are_the_code_s(plugin, name, value):
    kinds = [kind for kind in ("attacks", "defenses", "models", "datasets") if _has(kind, plugin)]
    cls = Recipe if plugin == "recipe" else registry.load(kinds[0], plugin)
    usual = params.defaults(cls)
    assert name in usual
    if value:
        written = ", ".join(map(str, usual[name])) if isinstance(usual[name], tuple) else str(usual[name])
        assert value == written


def test_other_values_that_methods_names_are_allowed():
    text = (ROOT / "docs" / "methods.md").read_text()
    for plugin, name, values in re.findall(r"`([\w-]+)\.(\w+) = [^`]+` \(((?:or )?`[^)]*`)\)", text):
        kind = next(kind for kind in ("attacks", "defenses", "models", "datasets") if _has(kind, plugin))
        for value in re.findall(r"`([\w.-]+)`", values):
            registry.make(kind, plugin, **{name: value})


def _has(kind: str, name: str) -> bool:
    try:
        registry.find(kind, name)
    except UsageError:
        return False
    return True


def test_numbers_of_the_paper_in_methods_are_those_of_its_table():
    with (ROOT / "benchbd" / "report" / "paper_table2.csv").open() as file:
        published = {
            round(100 * float(row[name]), 2) for row in csv.DictReader(file) for name in ("ca", "asr") if row[name]
        }
    text = (ROOT / "docs" / "methods.md").read_text()
    for number in ("43.85", "59.26", "83.45", "2.76", "5.57", "88.39", "89.83", "90.80", "94.69", "91.96", "79.16"):
        assert number in text
        assert float(number) in published, number


def test_running_and_reproduce_name_only_figures_that_there_are():
    text = (ROOT / "docs" / "reproduce.md").read_text()
    named = set(re.findall(r"`(fig\w+)`", text))
    assert named == {*panels.FIGURES} - {"overview"}
    assert named < {*matrix.shipped()}


def test_json_shown_is_json():
    for path in DOCS:
        for block in blocks(path):
            if block.language == "json":
                json.loads(block.text)


def committed_figures(name="figures"):
    return report_records.load(ROOT / "leaderboard" / f"{name}.jsonl")


SHIPPED = [line for line in commands(ROOT / "docs" / "figures.md") if re.match(r"benchbd plot .*leaderboard/", line)]


@pytest.mark.parametrize("line", SHIPPED)
def test_figures_of_the_shipped_records_are_drawn_as_the_docs_say(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    Path("leaderboard").symlink_to(ROOT / "leaderboard")
    words = [re.sub(r"\.(pdf|svg)$", ".csv", word) for word in shlex.split(line)[1:]]
    assert main(words) == 0, capsys.readouterr().err
    written = capsys.readouterr().out.split()
    assert written
    assert all(Path(name).is_file() for name in written)


def test_records_behind_the_figures_are_cells_of_the_commands_shown(fresh_registry):
    known = set()
    for line in commands(ROOT / "docs" / "figures.md"):
        if re.match(r"benchbd run fig[\w-]+ .*--output", line):
            known |= {cell.id for cell in load_plan(parser().parse_args(shlex.split(line)[1:])).cells}
    waiting = {"lfd", "blend"}  # their records are of version 1, until they are measured again
    made = [record for record in committed_figures() if not {record["defense"], record["attack"]} & waiting]
    assert made
    made += committed_figures("figures-narrow")
    assert {record["id"] for record in made} <= known


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        (folder, path)
        for folder in ("figures", "figures-narrow")
        for path in sorted((ROOT / "docs" / folder).glob("*.csv"))
    ],
    ids=lambda value: value if isinstance(value, str) else value.stem,
)
def test_figures_shown_are_drawn_from_committed_records(folder, path):
    (figure,) = panels.figures(path.stem, panels.source(committed_figures(folder)))
    assert plots.numbers(figure) == path.read_text()
    assert path.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.timeout(600)
def test_the_program_of_the_docs_gives_a_row(tmp_path, monkeypatch, capsys, fresh_registry, one_thread):
    """docs/command.md: the script and the matrix as they stand there, the data shrunk to seconds."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / "docs" / "command.md"):
        if block.file:
            Path(block.file).write_text(block.text)
    few = ["theirs.yaml", *TINY, "--filter", "attack=bn-g,defense=command*", "--output", "out"]
    assert main(["run", *few, "--executor", "inline", "--display", "none"]) == 0, capsys.readouterr().err
    (record,) = report_records.load(tmp_path / "out")
    assert record["status"] == "done"
    assert record["epochs_trained"] == 2
    assert record["detection"]["flagged"] == 20
    assert 0 <= record["ca"] <= 1
    (log,) = (tmp_path / "out" / "logs").glob("*.log")
    assert "epoch 1/1 loss" in log.read_text()
