"""The model hub that timm loads weights from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from huggingface_hub import constants

_PATIENCE = 5.0  # seconds for the hub to answer


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Where the hub does not answer, look only into its local cache: otherwise it is asked for more than a minute."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    try:
        requests.head(constants.ENDPOINT, timeout=_PATIENCE)
    except requests.RequestException:
        return False
    return True
