"""A hub that does not answer is not asked again and again."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from clflow.features.hub import hub_or_cache
from tests.loopback import free_port


def test_where_the_hub_does_not_answer_only_its_cache_is_looked_into(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with hub_or_cache():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()
