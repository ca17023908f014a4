"""What the site adds to the pages: generated references, the project's reports, and formulas without a script."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from parameters import reference  # beside this file; mkdocs finds it there

ROOT = Path(__file__).resolve().parents[2]
_REPORTS = ("bench", "pictures", "real")  # those of git; others may be outputs of a run in this checkout


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the project's reports, which lie outside of docs/."""
    for folder in _REPORTS:
        for path in sorted((ROOT / "reports" / folder).rglob("[!.]*.*")):
            name = path.relative_to(ROOT).as_posix()
            files.append(
                File(name, str(ROOT), config.site_dir, config.use_directory_urls, inclusion=InclusionLevel.NOT_IN_NAV)
            )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated, and let links to reports lead to where the site has them."""
    for mark, generate in (("[[ commands ]]", _commands), ("[[ parameters ]]", _parameters)):
        if mark in markdown:
            markdown = markdown.replace(mark, generate())
    name = page.file.src_uri
    if name.startswith("reports/"):
        return _without_dead_links(markdown, (ROOT / name).parent)
    return re.sub(r"\]\((\.\./)+reports/", f"]({'../' * name.count('/')}reports/", markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers draw by themselves."""
    for display, opening, closing in (("inline", r"\\\(", r"\\\)"), ("block", r"\\\[", r"\\\]")):
        content = re.sub(
            rf'(<(?:span|div) class="arithmatex">){opening}(.*?){closing}',
            lambda found, display=display: found[1] + convert(html.unescape(found[2]), display=display),
            content,
            flags=re.DOTALL,
        )
    return content


def _commands() -> str:
    """The pages of all commands, as Typer writes them."""
    program = [sys.executable, "-m", "typer", "pipelines.cli", "utils", "docs", "--name", "clflow"]
    written = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return re.sub(r"^Example: (clflow .*)$", r"```bash\n\1\n```", written[written.index("## ") :], flags=re.MULTILINE)


def _parameters() -> str:
    return reference(ROOT / "params.yaml", commented=[ROOT / "params.yaml", ROOT / "clflow" / "config" / "base.yaml"])


def _without_dead_links(markdown: str, folder: Path) -> str:
    """The words of links to what git does not hold, such as galleries, which are made of a dataset's images."""
    return re.sub(
        r"(?<!!)\[([^\]]+)\]\(([^)#:]+)\)",
        lambda found: found[0] if (folder / found[2]).exists() else found[1],
        markdown,
    )
