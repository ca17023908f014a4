"""The model hub that timm loads weights from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from huggingface_hub import constants

from clflow.errors import WeightsError

_PATIENCE = 5.0  # seconds for the hub to answer


def hub_answers() -> bool:
    """Whether the hub may be asked and answers."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(constants.ENDPOINT, timeout=_PATIENCE)
    except requests.RequestException:
        return False
    return True


@contextmanager
def hub_or_cache(backbone: str) -> Iterator[None]:
    """Where the hub does not answer, look only into its local cache: otherwise it is asked for more than a minute.

    Args:
        backbone: whose weights are loaded inside.

    Raises:
        WeightsError: the hub does not answer, and loading failed.
    """
    before, answers = constants.HF_HUB_OFFLINE, hub_answers()
    constants.HF_HUB_OFFLINE = not answers
    try:
        yield
    except Exception as error:  # hub and network libraries raise types of their own
        if answers:
            raise
        raise WeightsError(
            f"{backbone} was not downloaded before, and the model hub {constants.ENDPOINT} does not answer; connect to "
            "it, give model.weights a local file, or begin the parameter file with `extends: offline`."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before
