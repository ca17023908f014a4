"""The report in the browser: what is in it, its size, and that it works in Chromium from a file, without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Browser, Frame, Page, sync_playwright

from clflow.files import fingerprint, read_json
from pipelines.reporting.best_on_test import best_on_test
from pipelines.reporting.cases import VERDICTS, ScoredCell, browsed
from pipelines.reporting.comparison import auroc_intervals, gains
from pipelines.reporting.content import Results
from pipelines.reporting.html import page as render
from pipelines.stages import report
from pipelines.stages.aggregate import aggregate
from pipelines.workspace.cells import Cell
from pipelines.workspace.results import read_table
from tests.pipelines.scored import Scored

Scheme = Literal["light", "dark"]

BOUND = 10_000_000  # bytes
DEFECT = "dent'&</script><script>document.title = 'pwned'</script>"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Two whole categories and one without defects. A defect has a hostile name; those of categories are checked."""
    categories, test = ("nut", "screw", "sound"), {"sound": (0, 6)}
    scored = Scored.make(tmp_path_factory.mktemp("page"), categories, ("clflow", "fastflow"), (0, 1), test=test)
    for cell in scored.cells:
        path = scored.workspace.score(cell) / "scores.csv"
        pd.read_csv(path).replace({"defect": {"dent": DEFECT}}).to_csv(path, index=False)
    aggregate(scored.cells, scored.params, scored.workspace)
    report.run(scored.params, scored.workspace)
    return scored


class Elements(HTMLParser):
    """What a page loads, and the text of each script by its type."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: list[str] = []
        self.scripts: dict[str, list[str]] = {}
        self.open: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loaded += [str(given[name]) for name in ("src", "href") if name in given]
        if tag == "script":
            self.open = self.scripts.setdefault(str(given.get("type")), [])

    def handle_endtag(self, tag: str) -> None:
        self.open = None if tag == "script" else self.open

    def handle_data(self, data: str) -> None:
        if self.open is not None:
            self.open.append(data)


def text_of(scored: Scored) -> str:
    return scored.workspace.page.read_text(encoding="utf-8")


def test_page_is_one_file_and_names_are_data(reported: Scored):
    found = Elements(text_of(reported))
    assert all(address.startswith("#") for address in found.loaded)
    assert len(found.scripts["module"]) == 2
    (content,) = found.scripts["application/json"]
    data = json.loads(content)
    assert [part["category"] for part in data["categories"]] == ["nut", "screw", "sound"]
    assert {case["defect"] for cell in data["cells"] for case in cell["cases"]} == {DEFECT, "good"}


def test_page_holds_the_figures_of_the_tables(reported: Scored):
    data = json.loads(Elements(text_of(reported)).scripts["application/json"][0])
    table = read_table(reported.workspace.cells_table)
    for cell, row in zip(data["cells"], table.to_dict("records"), strict=True):
        counts = cell["counts"]
        assert sum(counts.values()) == row["test_good"] + row["test_defective"]
        assert counts["false alarm"] == round(row["false_alarms"] * row["test_good"])
        assert sum(map(sum, cell["histogram"]["counts"])) == sum(counts.values()) + 3  # and the held-out ones
        if row["category"] == "sound":
            assert cell["roc"] == cell["pro"] == [] and cell["figures"]["image_auroc"] is None
        else:
            x, y = np.transpose(cell["roc"])
            assert np.trapezoid(y, x) == pytest.approx(row["image_auroc"], abs=1e-4)
            assert np.transpose(cell["pro"])[0].max() == pytest.approx(0.3)
        assert cell["history"]["step"] == [10, 20, 30]


def test_wrong_ones_come_first_and_no_verdict_crowds_out_another(reported: Scored):
    scored = ScoredCell.load(reported.cells[0], reported.params.protocol, reported.workspace)
    labels, scores = [0] * 4 + [1] * 4, [0.1, 0.4, 0.6, 3.0, 0.45, -2.0, 0.6, 9.0]
    table = pd.DataFrame({"label": labels, "image_score": scores})
    scored = replace(scored, scores=table, image_threshold=0.5)
    assert browsed(scored) == [3, 5, 6, 1, 2, 4, 7, 0]
    assert [scored.verdict(row) for row in browsed(scored)] == [*VERDICTS, *VERDICTS]


def test_size_is_bounded_for_180_cells(tmp_path: Path, browser: Browser):
    """18 categories, 2 methods and 5 seeds; pictures of noise, which no coding makes small."""
    made = Scored.make(tmp_path, ("nut",), ("clflow",), (0,))
    workspace, (source,) = made.workspace, made.cells
    rng = np.random.default_rng(0)
    for path in workspace.data("parts").glob("nut/test/*/*.png"):
        Image.fromarray(rng.integers(0, 256, (192, 192, 3), np.uint8)).save(path)
    history = {f"term_{number}": rng.normal(size=400) for number in range(12)} | {"step": range(400)}
    pd.DataFrame(history).to_csv(workspace.run(source) / "history.csv", index=False)
    aggregate(made.cells, made.params, workspace)
    cells = [
        Cell("parts", f"category-{category:02}", method, seed, fingerprint([category, method, seed]), 9)
        for category in range(18)
        for method in ("clflow", "fastflow")
        for seed in range(5)
    ]
    for cell in cells:
        workspace.run(cell).symlink_to(workspace.run(source))
        workspace.score(cell).symlink_to(workspace.score(source))
    names = pd.DataFrame([cell.__dict__ for cell in cells])
    table, board, pro = (
        read_table(path) for path in (workspace.cells_table, workspace.leaderboard_table, workspace.pro_table)
    )
    keys = ["dataset", "category", "method", "seed"]
    table = pd.concat([table] * len(cells), ignore_index=True).assign(**{name: names[name] for name in names})
    of_boards = names.drop_duplicates(keys[:3]).reset_index(drop=True)
    board = pd.concat([board.iloc[:1]] * len(of_boards), ignore_index=True).assign(
        **{name: of_boards[name] for name in keys[:3]}
    )
    pro = pd.concat([pro.assign(**{name: getattr(cell, name) for name in keys}) for cell in cells])
    assert len(table) == 180
    results = Results(table, board, pro, auroc_intervals({}))
    protocol = read_json(workspace.protocol)
    text = render(results, gains({}), best_on_test([], workspace), made.params, protocol, cells, workspace)
    assert len(text.encode()) < BOUND
    data = json.loads(Elements(text).scripts["application/json"][0])
    pictured = [len(cell["cases"]) for cell in data["cells"] if cell["seed"] == 0]
    assert min(pictured) >= 5 and max(pictured) - min(pictured) <= 1
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    shown = browser.new_page()
    shown.goto((tmp_path / "index.html").as_uri() + "#categories")
    shown.locator("#chart-categories svg").wait_for()
    assert shown.locator("#board tbody tr").count() == 36


# --- in Chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, reported: Scored) -> Iterator[Callable[..., Page]]:
    """Open the page at an address within it; whatever it says to the console or loads from elsewhere fails the test."""
    heard: list[str] = []
    contexts = []

    def open_page(address: str = "", width: int = 1280, scheme: Scheme = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        file = reported.workspace.page.as_uri()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url) if not _own(request.url, file) else None)
        page.goto(file + address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


def _own(url: str, file: str) -> bool:
    return url.startswith("data:") or url.split("#")[0] == file


def column(page: Page | Frame, key: str) -> list[str]:
    cells = page.locator(f'#board tbody tr:not([hidden]) [data-key="{key}"]')
    return [str(cell.get_attribute("data-value")) for cell in cells.all()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_is_legible(visit: Callable[..., Page], width: int, scheme: Scheme):
    page = visit(width=width, scheme=scheme)
    charts = page.locator(".chart")
    for chart in charts.all():
        chart.scroll_into_view_if_needed()
        chart.locator("svg, .nothing").first.wait_for()
    assert charts.count() > 5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(
        """() => {
            const light = (colour) => {
                const [r, g, b] = colour.match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16) / 255)
                    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
            };
            const of = (name) => light(getComputedStyle(document.documentElement).getPropertyValue(name).trim());
            return ["--ink", "--muted", "--accent", "--bad", "--good"].map((name) => of(name) / of("--paper"))
                .map((ratio) => Math.max(ratio, 1 / ratio));
        }"""
    )
    assert min(contrasts) > 4.5  # WCAG AA
    sizes = page.locator("p, td, th, label, figcaption span, svg text").evaluate_all(
        "all => all.filter((each) => each.offsetParent || each.ownerSVGElement)"
        ".map((each) => parseFloat(getComputedStyle(each).fontSize))"
    )
    assert min(sizes) >= 11
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_leaderboard_sorts_by_its_headings(visit: Callable[..., Page]):
    page = visit("#leaderboard?category=")
    heading = page.get_by_role("button", name="image AUROC", exact=True)
    for direction in ("descending", "ascending"):
        heading.focus()
        page.keyboard.press("Enter")
        assert page.locator("th[aria-sort]:not([aria-sort=none])").get_attribute("aria-sort") == direction
        *values, second, last = column(page, "image_auroc")
        figures = [float(value) for value in values]
        assert figures == sorted(figures, reverse=direction == "descending") and len(figures) == 6
        assert (second, last) == ("", "")  # of the category without defects
    page.get_by_role("button", name="method").click()
    assert column(page, "method") == sorted(column(page, "method"))
    assert "sort=method+ascending" in page.url


def test_leaderboard_is_filtered_and_its_address_keeps_the_filters(visit: Callable[..., Page]):
    page = visit()
    assert column(page, "category") == ["mean", "mean"]
    form = page.locator("#leaderboard form")
    form.get_by_label("Category").select_option("parts/screw")
    assert column(page, "category") == ["screw", "screw"]
    form.get_by_label("Method").select_option("fastflow")
    assert column(page, "method") == ["fastflow"]
    form.get_by_label("Figures").select_option("costs")
    assert page.locator("#board thead th:visible").all_inner_texts()[-1] == "inference per image"
    page.reload()
    assert column(page, "method") == ["fastflow"]
    form.get_by_label("Method").select_option("")
    form.get_by_label("Category").select_option("")
    form.get_by_label("Search").fill("CLFLOW nut")
    assert column(page, "category") == ["nut"]
    form.get_by_label("Search").fill("nothing of that name")
    assert page.locator("#board-count").inner_text() == "0 of 8 rows"


def test_a_category_shows_its_verdicts_curves_and_training(visit: Callable[..., Page], reported: Scored):
    page = visit("#leaderboard?category=&method=fastflow")
    page.locator("#board tr:not([hidden]) a", has_text="screw").click()
    assert page.locator("#detail-title").inner_text() == "One category: parts / screw"
    assert page.locator("#verdicts .chosen th").inner_text() == "fastflow"
    page.locator("#detail").get_by_label("Seed").select_option("1")
    table = read_table(reported.workspace.cells_table).set_index(["category", "method", "seed"])
    row = table.loc[("screw", "fastflow", 1)]
    alarms, misses = round(row["false_alarms"] * 6), round(row["misses"] * 6)
    shown = page.locator(".confusion tbody tr td strong").all_inner_texts()
    assert shown == [str(count) for count in (6 - alarms, alarms, misses, 6 - misses)]
    assert f"False alarms: {100 * row['false_alarms']:.1f} (" in page.locator("#confusion").inner_text()
    for chart in ("histogram", "roc", "pro", "training-0"):
        page.locator(f"#chart-{chart}").scroll_into_view_if_needed()
        page.locator(f"#chart-{chart} svg path").first.wait_for()
    assert "threshold 0.5" in page.locator("#chart-histogram svg").inner_html()
    page.locator("#detail").get_by_label("Category").select_option("parts/sound")
    assert "It has no defective test images." in page.locator("#detail-note").inner_text()
    page.locator("#chart-roc .nothing").wait_for()


def test_gallery_begins_with_what_is_wrong_and_is_browsed(visit: Callable[..., Page], reported: Scored):
    page = visit("#gallery?part=parts/screw")
    verdicts = page.locator("#cases figcaption b").all_inner_texts()
    assert verdicts == sorted(verdicts, key=VERDICTS.index) and len(verdicts) == 12
    assert verdicts[0] in VERDICTS[:2]
    loaded = "all => Promise.all(all.map((each) => each.decode().then(() => each.naturalWidth)))"
    assert set(page.locator("#cases img").evaluate_all(loaded)) == {192}
    controls = page.locator("#gallery form")
    controls.locator("[name=verdict]").select_option("found")
    assert set(page.locator("#cases figcaption b").all_inner_texts()) == {"found"}
    assert page.locator("#cases svg path").count() == verdicts.count("found")
    controls.get_by_label("outline of the truth").uncheck()
    assert page.locator("#cases svg").count() == 0
    controls.locator("[name=verdict]").select_option("")
    controls.get_by_label("Defect").select_option(DEFECT)
    controls.get_by_label("Order").select_option("high")
    scores = [float(text.split()[0]) for text in page.locator("#cases figcaption span:nth-child(3)").all_inner_texts()]
    assert scores == sorted(scores, reverse=True) and len(scores) == 6


def test_hostile_names_are_only_text(visit: Callable[..., Page]):
    page = visit(f"#gallery?{urlencode({'defect': DEFECT})}")
    assert page.title() == "full: report"
    assert page.locator("#cases figcaption span:nth-child(2)").first.inner_text() == DEFECT


def test_page_works_in_the_frame_that_mlflow_shows_it_in(browser: Browser, reported: Scored):
    """Scripts are allowed there, but it has no origin."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_content("<iframe sandbox='allow-scripts' style='width:1200px;height:800px'></iframe>")
    page.evaluate(
        """text => {
            const file = new Blob([text], { type: "text/html" });
            document.querySelector("iframe").src = URL.createObjectURL(file);
        }""",
        text_of(reported),
    )
    frame = page.frame_locator("iframe")
    frame.locator("#chart-cost svg").wait_for()
    frame.get_by_role("button", name="method").click()
    assert frame.locator("th[aria-sort=ascending]").inner_text() == "method"
    assert errors == []
    page.close()
