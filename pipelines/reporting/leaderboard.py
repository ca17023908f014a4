"""The leaderboard as Markdown: where the numbers come from, what they are, and what others have published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clflow.config.params import TUNED
from clflow.rates import RATES
from pipelines.reporting.formats import MISSING, RATE_TITLES, TITLES, percent, rate
from pipelines.reporting.markdown import markdown_table
from pipelines.reporting.published import PUBLISHED, PublishedResult
from pipelines.workspace.results import AVERAGED, HARDWARE, MEAN, TEST_IMAGES, missing_images

if TYPE_CHECKING:
    from clflow.config.params import Params

_PER_CATEGORY = ("image_auroc", "pixel_auroc", "aupro_30")
_TUNED = "†"

_METHOD_NOTE = """\
All numbers are percentages, mean ± sample standard deviation over seeds, never the best seed; a mean over categories
averages those of each seed first. `index.html` has every metric with its interval, curves and pictures;
`leaderboard.csv` and `cells.csv` have them unrounded. Weights are those at the end of a fixed budget; thresholds and
all choices use normal training images and synthetic anomalies only, never test data. False alarms and misses are
shares of the normal and of the defective test images that the stored threshold judges wrongly, with exact 95 %
intervals (Clopper and Pearson); bounds are averaged like the rates, so that those of a mean over categories are wider
than they need be."""

_ANCHOR_NOTE = """\
For orientation only: **published elsewhere, not measured here; other backbones and input sizes**, and often
another protocol (some choose the best epoch on test data). Percent, mean over the dataset's categories."""


def markdown(
    table: pd.DataFrame,
    board: pd.DataFrame,
    gains: pd.DataFrame,
    best_on_test: pd.DataFrame,
    params: Params,
    protocol: dict[str, Any],
) -> str:
    """Render the report.

    Args:
        table: cells.csv.
        board: leaderboard.csv.
        gains: see `pipelines.reporting.comparison.gains`.
        best_on_test: see `pipelines.reporting.best_on_test.best_on_test`.
        params: what was asked for.
        protocol: protocol.json: the protocol and its hash.
    """
    blocks = [f"# Leaderboard: {params.benchmark.name}", _provenance(table, params, protocol), *_mixture(table)]
    blocks.append(_METHOD_NOTE)
    blocks += ["![Image AUROC per category](plots/image_auroc.png)"]
    blocks += ["![Accuracy against inference cost](plots/cost.png)"]
    blocks += ["![Image scores of normal, defective and synthetic images](plots/image_scores.png)"]
    blocks += [
        "More: [the whole report](index.html), [best and worst cases](gallery/index.md), "
        "[learning curves](plots/history.png)."
    ]
    for dataset in board["dataset"].unique():
        of_dataset = board.loc[board["dataset"] == dataset]
        tuned = set(table.loc[(table["dataset"] == dataset) & table["tuned"], "category"])
        cells = table.loc[table["dataset"] == dataset]
        blocks += [f"## {dataset}", _means(of_dataset)]
        for name, title in (*((metric, TITLES[metric]) for metric in _PER_CATEGORY), *RATE_TITLES.items()):
            blocks += [f"### {dataset}: {title} of each category", _per_category(of_dataset, name, tuned)]
        if tuned:
            blocks.append(f"{_TUNED} tuned per category: this one has parameters of its own.")
        blocks += _missing_figures(of_dataset, cells)
        blocks += _gains(gains.loc[gains["dataset"] == dataset], params.benchmark.seeds)
        blocks += _best_on_test(best_on_test.loc[best_on_test["dataset"] == dataset])
        blocks += _search(cells, params)
        anchors = [anchor for anchor in PUBLISHED if anchor.dataset == dataset]
        if anchors:
            blocks += [
                f"### {dataset}: published elsewhere, not measured here",
                _ANCHOR_NOTE,
                _published(anchors),
            ]
    return "\n\n".join(blocks) + "\n"


def _provenance(table: pd.DataFrame, params: Params, protocol: dict[str, Any]) -> str:
    benchmark = params.benchmark
    categories = sum(len(params.data[dataset].categories) for dataset in benchmark.datasets)
    asked = categories * len(benchmark.methods) * len(benchmark.seeds)
    cells = f"{len(table)} of {asked}"
    if len(table) < asked:
        cells = f"**{cells}: incomplete; a dataset's mean covers only seeds that have all categories**"
    block = ", ".join(f"{key} {value}" for key, value in protocol["protocol"].items())
    rows = [
        ["commit", ", ".join(f"`{commit}`" for commit in table["commit"].unique())],
        ["protocol", f"{block}; hash `{protocol['hash']}`"],
        ["backbone", f"`{params.model.backbone}`, strides {_listed(params.model.strides)}"],
        ["seeds", _listed(benchmark.seeds)],
        ["cells", cells],
        ["trained on", _listed(trained_on(table))],
    ]
    return markdown_table(["", ""], "ll", rows)


def trained_on(table: pd.DataFrame) -> list[str]:
    """Devices and arithmetics, as "cpu AVX512, bfloat16"."""
    return sorted({", ".join(row) for row in table.loc[:, list(HARDWARE)].itertuples(index=False)})


def mixed_hardware(table: pd.DataFrame) -> list[str]:
    """Methods whose cells were trained on several devices or in several arithmetics."""
    return [
        str(method)
        for method, of_method in table.groupby("method", sort=False)
        if len(of_method.loc[:, list(HARDWARE)].drop_duplicates()) > 1
    ]


def _mixture(table: pd.DataFrame) -> list[str]:
    """A warning if cells of one method were trained on several devices or in several arithmetics."""
    mixed = mixed_hardware(table)
    if not mixed:
        return []
    return [
        f"**Cells of {_listed(mixed)} were trained on several devices or in several arithmetics**, which moves image "
        "AUROC by up to a point; `cells.csv` says which is which."
    ]


def _means(of_dataset: pd.DataFrame) -> str:
    rows = [
        [
            row["method"],
            str(row["n_seeds"]),
            *(percent(row, metric) for metric in _PER_CATEGORY),
            *(rate(row, name) for name in RATES),
            MISSING if np.isnan(row["inference_ms"]) else f"{row['inference_ms']:.0f} ms",
        ]
        for _, row in of_dataset.loc[of_dataset["category"] == MEAN].iterrows()
        if row["n_seeds"] > 0
    ]
    titles = [TITLES[metric] for metric in _PER_CATEGORY]
    header = ["method", "seeds", *titles, *RATE_TITLES.values(), "inference per image"]
    return markdown_table(header, "l" + "r" * (len(header) - 1), rows)


def _per_category(of_dataset: pd.DataFrame, name: str, tuned: set[str]) -> str:
    """A figure: methods as rows, categories as columns, mean over seeds."""
    column, digits = (name, 1) if name in RATES else (f"{name}_mean", 2)
    of_categories = of_dataset.loc[of_dataset["category"] != MEAN]
    categories = list(of_categories["category"].unique())
    figures = of_categories.set_index(["category", "method"])[column].to_dict()
    rows = [
        [method, *(_share(figures.get((category, method), np.nan), digits) for category in categories)]
        for method in of_dataset["method"].unique()
    ]
    return markdown_table(
        ["method", *(_category(each, tuned) for each in categories)], "l" + "r" * len(categories), rows
    )


def _share(value: float, digits: int) -> str:
    return MISSING if np.isnan(value) else f"{100 * value:.{digits}f}"


def _missing_figures(of_dataset: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    """What keeps figures from existing, and over how many categories they are averaged; nothing if all exist."""
    counts = cells.drop_duplicates("category").set_index("category").loc[:, list(TEST_IMAGES)]
    missing = {category: missing_images(*row) for category, *row in counts.itertuples()}
    named = [f"{category} has {words}" for category, words in missing.items() if words]
    if not named:
        return []
    categories = of_dataset.loc[of_dataset["category"] != MEAN]
    having = {column: categories.loc[categories[column] > 0, "category"].nunique() for column in AVERAGED}
    kinds = ("image metrics", "pixel metrics", "false alarms", "misses")
    over = ", ".join(f"{kind} {count}" for kind, count in zip(kinds, having.values(), strict=True))
    return [
        f"**{MISSING}** is a figure that does not exist: {'; '.join(named)}. Means are over those of the "
        f"{len(counts)} categories that have the figure: {over}."
    ]


def _gains(of_dataset: pd.DataFrame, seeds: tuple[int, ...]) -> list[str]:
    if of_dataset.empty:
        return []
    method = of_dataset["method"].iloc[0]
    rows = [
        [row["rival"], f"{100 * row['gain']:+.2f}", f"{100 * row['lower']:+.2f} to {100 * row['upper']:+.2f}"]
        for row in of_dataset.loc[of_dataset["category"] == MEAN].to_dict("records")
    ]
    return [
        f"### What {method} gains in image AUROC",
        f"Percentage points over the other methods, mean of categories and of seeds {_listed(seeds)}, with 95 % "
        "intervals of a paired bootstrap over the test images (classes resampled apart); an interval that spans zero "
        "shows no difference.",
        markdown_table(["over", "gain", "95 % interval"], "lrr", rows),
    ]


def _best_on_test(of_dataset: pd.DataFrame) -> list[str]:
    if of_dataset.empty:
        return []
    rows = []
    for method in of_dataset["method"].unique():
        of_method = of_dataset.loc[of_dataset["method"] == method]
        last, best = (f"{100 * of_method[name].mean():.2f}" for name in ("last", "best"))
        rows.append([method, str(len(of_method)), last, best])
    return [
        "### Last weights, and the best on the test set",
        "Image AUROC, mean over seeds and categories. The last weights are the result. The best on the test set is "
        "what choosing among the evaluations of a training by its test images would print; **nobody can have it**, it "
        "only shows how much such a choice would flatter.",
        markdown_table(["method", "categories", "last", "best on test"], "lrrr", rows),
    ]


def _search(of_dataset: pd.DataFrame, params: Params) -> list[str]:
    """Default against tuned parameters, on the same seeds."""
    blocks = []
    for tuned in [method for method in params.benchmark.methods if method.endswith(TUNED)]:
        method = tuned.removesuffix(TUNED)
        default, found = (of_dataset.loc[of_dataset["method"] == name] for name in (method, tuned))
        pairs = default.merge(found, on=["category", "seed"], suffixes=("", TUNED))
        if pairs.empty or params.tuned is None:
            continue
        gains = pairs[["category", "seed"]].assign(
            **{metric: pairs[metric + TUNED] - pairs[metric] for metric in _PER_CATEGORY}
        )
        groups = [(category, gains.loc[gains["category"] == category]) for category in gains["category"].unique()]
        rows = [
            [category, str(group["seed"].nunique()), *(_gain(group, metric) for metric in _PER_CATEGORY)]
            for category, group in [*groups, (f"**{MEAN}**", gains)]
        ]
        notes = [
            f"{name}: {note['objective']} {_rounded(note['default'])} by default, {_rounded(note['found'])} found"
            for name, note in params.tuned.search.items()
        ]
        header = ["category", "seeds", *(f"gain in {TITLES[metric]}" for metric in _PER_CATEGORY)]
        blocks += [
            f"### What search brought: {tuned} against {method}",
            "Percentage points on the test set, mean ± sample standard deviation over the same seeds. The search saw "
            f"held-out training images and synthetic anomalies only ({'; '.join(notes)}).",
            markdown_table(header, "lrrrr", rows),
        ]
    return blocks


def _gain(gains: pd.DataFrame, metric: str) -> str:
    of_seeds = np.array([gains.loc[gains["seed"] == seed, metric].mean() for seed in gains["seed"].unique()])
    if np.isnan(of_seeds).any():
        return MISSING
    spread = f" ± {100 * of_seeds.std(ddof=1):.2f}" if len(of_seeds) > 1 else ""
    return f"{100 * of_seeds.mean():+.2f}{spread}"


def _category(category: str, tuned: set[str]) -> str:
    return f"{category} {_TUNED}" if category in tuned else category


def _published(anchors: list[PublishedResult]) -> str:
    rows = [
        [
            anchor.method,
            *map(_optional, (anchor.image_auroc, anchor.pixel_auroc, anchor.aupro_30)),
            anchor.source,
        ]
        for anchor in anchors
    ]
    return markdown_table(["method", *(TITLES[metric] for metric in _PER_CATEGORY), "source"], "lrrrl", rows)


def _rounded(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _optional(value: float | None) -> str:
    return "" if value is None else str(value)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
