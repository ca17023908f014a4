"""What a command says: its result on standard output, progress and warnings as log records on standard error."""

from __future__ import annotations

import logging
import os
import sys

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
