"""The site has every page, every link in it leads somewhere, and it is laid out without any other package."""

from __future__ import annotations

import re
from pathlib import Path

import developer_tools
import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    return developer_tools.tool("build_site")


@pytest.fixture(scope="module")
def site(tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    tool.lay_out(folder)
    return folder / "docs"


def navigation(entries):
    for entry in entries:
        for target in entry.values() if isinstance(entry, dict) else (entry,):
            yield from navigation(target) if isinstance(target, list) else (target,)


def test_every_page_is_in_the_navigation_once(tool, site):
    listed = list(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(set(listed)) == len(listed)
    assert set(listed) == {path.relative_to(site).as_posix() for path in site.rglob("*.md")}
    assert set(listed) == {*tool.pages().values(), *(f"api/{name}.md" for name in tool.REFERENCE)}


def anchors(text):
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def test_every_link_in_the_site_leads_to_a_page_or_file_of_it(tool, site):
    checked = 0
    for page in site.rglob("*.md"):
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = link.partition("#")
            if link.startswith(("https://", "mailto:")):
                continue
            target = (page.parent / file).resolve() if file else page
            assert target.is_relative_to(site.resolve()), f"{page.name} links to {link}"
            written_later = target == (site / tool.BOARD).resolve()
            assert written_later or target.is_file(), f"{page.name} links to {link}"
            assert not anchor or anchor in anchors(target.read_text()), f"{page.name} links to {link}"
            checked += 1
    assert checked > 50


def test_links_out_of_docs_lead_to_copies(tool, site):
    assert any("(files/matrices/table2.yaml)" in page.read_text() for page in site.glob("*.md"))
    assert (site / "files/matrices/table2.yaml").read_text() == (ROOT / "matrices/table2.yaml").read_text()
    taken = []
    text = tool.linked(
        "docs/tutorial/first-run.md", "[a](../statistics.md#bold) [b](../../LICENSE) [c](x.md)", taken.append
    )
    assert text == "[a](../statistics.md#bold) [b](../files/LICENSE) [c](x.md)"
    assert taken == ["docs/statistics.md", "LICENSE"]
    assert tool.linked("README.md", "[a](docs/matrix.md)\n```\n[b](docs/matrix.md)\n```\n") == (
        "[a](matrix.md)\n```\n[b](docs/matrix.md)\n```\n"
    )


def test_the_reference_names_modules_that_exist_and_has_the_public_names(tool, site):
    sources = site.parent / "sources"
    modules = [name for _, names in tool.REFERENCE.values() for name in names]
    texts = []
    for name in modules:
        path = sources / (name.replace(".", "/") + ".py")
        path = path if path.is_file() else sources / name.replace(".", "/") / "__init__.py"
        texts.append(path.read_text())
    everything = "\n".join(texts)
    for name in ("Lab", "Workshop", "Defense", "Attack", "Model", "Dataset", "Recipe", "TrainingLoop", "UsageError"):
        assert re.search(rf"^class {name}\b", everything, re.MULTILINE), name
    assert not re.search(r":(func|class|mod|meth):`", everything)
