"""The site: it builds without a warning, every link within it leads somewhere, and it knows every parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from typer.main import get_command

from clflow.config.params import load
from pipelines.cli import app
from tests.pipelines.command import verbs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)  # strict: any warning, as of a dead link, is an error
    return folder


class Page(HTMLParser):
    """Addresses that a page names, the names that it can be linked at, and its rows of tables."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.names |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img") and "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and given.get("rel") != "canonical" and "href" in given:
            self.loaded.append(given["href"])
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_link_and_file_is_there_and_none_is_loaded_from_elsewhere(site: Path):
    found = pages(site)
    assert len(found) > 25
    dead = []
    for path, page in found.items():
        assert not [address for address in page.loaded if urlsplit(address).netloc], path
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = found[target].names if target in found else set()
            if not target.exists() or (parts.fragment and target in found and unquote(parts.fragment) not in anchors):
                dead.append(f"{path.relative_to(site)}: {address}")
    assert dead == []


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_parameter_is_explained(site: Path):
    rows = [row for row in Page(site / "reference" / "parameters.html").rows if len(row) == 4]
    known = {row[0].replace("<name>", "*") for row in rows}
    params = load(ROOT / "params.yaml")
    unknown = [
        leaf
        for leaf in leaves(params.model_dump(mode="json"))
        if not any(fnmatchcase(leaf, name) or leaf.startswith(f"{name}.") for name in known)
    ]
    assert unknown == []
    assert [row[0] for row in rows if not all(cell.strip() for cell in row)] == []
    (steps,) = [row for row in rows if row[0] == "train.steps"]
    assert steps[1:3] == ["integer ≥ 1", str(params.train.steps)]


def test_every_command_and_option_is_listed(site: Path):
    text = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for words, verb in verbs(get_command(app)):
        assert f"clflow {' '.join(words)}" in text
        shown = [parameter for parameter in verb.params if not getattr(parameter, "hidden", False)]
        options = [name for parameter in shown for name in parameter.opts if name.startswith("--")]
        assert [option for option in options if option not in text] == []
        assert "Example: clflow" not in text  # it is a block of code


def test_formulas_are_drawn_without_a_script(site: Path):
    text = (site / "explanation" / "method.html").read_text(encoding="utf-8")
    assert text.count('display="block"') == 7
    formulas = re.findall(r"<math.*?</math>", text, re.DOTALL)
    assert len(formulas) > 20 and not [formula for formula in formulas if "\\" in formula]
