"""What a method sees of a batch is what it sees of its images, however many a CPU works on at once."""

import pytest
import torch

from clflow import chunks
from clflow.chunks import images_at_once
from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid, Features, Levels
from clflow.features.weights import find_weights

SIZE = 64


@pytest.fixture(scope="module", params=["grid", "levels"])
def seen(request: pytest.FixtureRequest) -> Features:
    backbone = Backbone(find_weights("tf_efficientnet_lite0", "offline"), (4, 8, 16))
    return FeatureGrid(backbone, grid=8, pool=3) if request.param == "grid" else Levels(backbone, grid=8)


def test_a_few_images_at_a_time_give_the_features_of_all(seen: Features, monkeypatch: pytest.MonkeyPatch):
    images = torch.randint(0, 256, (5, SIZE, SIZE, 3), dtype=torch.uint8)
    whole, calls = seen.of_images(images), []
    seen.backbone.register_forward_hook(lambda module, arguments, output: calls.append(len(arguments[0])))
    monkeypatch.setattr(chunks, "_PIXELS", 2 * SIZE**2)
    few = seen.of_images(images)
    assert calls == [2, 2, 1]
    torch.testing.assert_close(few, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_the_larger_images_are_the_fewer_are_worked_on_at_once():
    assert [images_at_once(size) for size in (128, 256, 384, 512, 4096)] == [16, 4, 1, 1, 1]
