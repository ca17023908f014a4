"""How figures are called and printed in tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "aupro_30": "AUPRO@0.3",
    "aupro_05": "AUPRO@0.05",
}
"""How a metric is called in tables and figures."""

RATE_TITLES = {"false_alarms": "false alarms", "misses": "misses"}
"""The same for the rates at the stored threshold."""

MISSING = "–"
"""A figure that does not exist."""


def percent(row: Any, metric: str) -> str:
    """Mean ± deviation of a metric in percent, from a row of leaderboard.csv."""
    mean, deviation = row[f"{metric}_mean"], row[f"{metric}_std"]
    if pd.isna(mean):
        return MISSING
    return f"{100 * mean:.2f}" if pd.isna(deviation) else f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def rate(row: Any, name: str) -> str:
    """A rate and its interval in percent, from a row of leaderboard.csv or cells.csv."""
    if pd.isna(row[name]):
        return MISSING
    return f"{100 * row[name]:.1f} ({100 * row[f'{name}_lower']:.1f} to {100 * row[f'{name}_upper']:.1f})"
