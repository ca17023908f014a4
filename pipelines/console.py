"""What a command says: its result on standard output, progress and warnings as log records on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from clflow.errors import ClflowError

LEVEL = "CLFLOW_LOG_LEVEL"
"""Environment variable: ``debug``, ``info`` or ``warning``. The commands that a command starts inherit it."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
_PACKAGES = ("clflow", "pipelines")  # other libraries keep their own levels
_DETAILED = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure() -> None:
    """Write the log records of our packages to standard error: plain sentences, with time and logger at ``debug``.

    Raises:
        ClflowError: `LEVEL` names no level.
    """
    name = os.environ.get(LEVEL, "info")
    if name not in _LEVELS:
        raise ClflowError(f"{LEVEL} is {name!r}; set it to {', '.join(_LEVELS)}, or unset it.")
    handler = _StandardError()
    handler.setFormatter(logging.Formatter(_DETAILED) if name == "debug" else _Plain())
    for package in _PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(_LEVELS[name])
        logger.handlers = [handler]


def write_table(rows: list[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Write rows to standard output: with all their keys as a JSON list, or some columns as a table for people."""
    if as_json:
        write_json(rows)
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:  # a line for each row, however long
        console = Console(highlight=False, markup=False, emoji=False, width=10_000)
    console.print(table)


def write_record(record: dict[str, Any], as_json: bool) -> None:
    """Write one thing to standard output: as a JSON object, or as YAML for people."""
    if as_json:
        write_json(record)
    else:
        yaml = YAML()
        yaml.width = 10_000  # no line is broken
        yaml.dump(record, sys.stdout)


def write_json(value: Any) -> None:
    """Write a value to standard output as JSON, which has no NaN."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _StandardError(logging.Handler):
    """Writes to what is standard error now: a live table takes its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {message}"
