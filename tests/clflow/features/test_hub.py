"""A hub that does not answer is not asked again and again."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from clflow.errors import WeightsError
from clflow.features import hub
from clflow.features.backbone import require_weights
from clflow.features.hub import hub_or_cache
from clflow.features.weights import Weights


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that accepts connections and says nothing; its local cache is empty."""
    monkeypatch.setattr(hub, "_PATIENCE", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield constants.ENDPOINT


def test_where_the_hub_does_not_answer_only_its_cache_is_looked_into(silent: str):
    with hub_or_cache("resnet18"):
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()


def test_weights_that_cannot_be_loaded_are_one_sentence_within_seconds(silent: str):
    start = time.monotonic()
    with pytest.raises(WeightsError, match=f"^resnet18.a1_in1k was not .*, and the model hub {silent} does not answer"):
        require_weights(Weights("resnet18.a1_in1k", None))
    assert time.monotonic() - start < 30  # most of it imports
    require_weights(Weights("resnet18.a1_in1k", Path("local")))  # files are looked for before
