"""Pretrained weights are really loaded, or there is an error."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from clflow.errors import ParameterError, WeightsError
from clflow.features.backbone import Backbone, pretrained_model, require_identity, weights_identity
from clflow.features.weights import Weights, find_weights
from clflow.features.zoo import import_timm
from clflow.files import file_sha256, write_json

timm = import_timm()
LITE0, LITE1, LITE2 = (f"tf_efficientnet_lite{i}" for i in range(3))


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return Backbone(find_weights(LITE0, "offline"), (8, 16))


def photograph(name: str) -> torch.Tensor:
    image = Image.fromarray(load_sample_image(name)).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    ("backbone", "photo", "label"),
    [(LITE0, "flower.jpg", "daisy"), (LITE1, "china.jpg", "palace"), (LITE2, "china.jpg", "palace")],
)
def test_offline_weights_classify_a_photograph(backbone: str, photo: str, label: str):
    model = pretrained_model(find_weights(backbone, "offline"))
    with torch.no_grad():
        best = model((photograph(photo) - 0.5) / 0.5)[0].topk(3).indices
    names = [timm.data.ImageNetInfo().index_to_description(int(i)) for i in best]
    assert any(label in name for name in names), names


def test_batch_norms_are_folded_with_their_trained_statistics():
    backbone = Backbone(find_weights(LITE2, "offline"), (4, 8, 16))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.net.modules())
    assert len(backbone(torch.rand(1, 3, 64, 64))) == 3


def test_batch_norm_that_does_not_follow_its_neighbour_is_not_folded(lite0: Backbone):
    class Crossed(nn.Module):
        """The norm comes before the convolution that is registered before it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
            self.norm.running_mean = torch.ones(3)

        def forward_intermediates(self, images: torch.Tensor, **_: object) -> list[torch.Tensor]:
            return [self.conv(self.norm(images))]

    crossed = copy.deepcopy(lite0)
    crossed.net = Crossed().eval()
    images = torch.rand(2, 3, 16, 16)
    (expected,) = crossed(images)
    crossed._fold_batch_norms()
    assert torch.equal(crossed(images)[0], expected)


def test_weights_of_another_model_are_refused():
    other = find_weights(LITE1, "offline")
    with pytest.raises(WeightsError, match="resnet18"):
        Backbone(Weights("resnet18", other.file), (8,))


def test_incomplete_file_is_refused(tmp_path: Path):
    state = timm.create_model("resnet10t", pretrained=False).state_dict()
    state.pop("layer1.0.conv1.weight")
    save_file(state, tmp_path / "half.safetensors")
    with pytest.raises(WeightsError, match=r"lacks 1 tensors.*layer1\.0\.conv1\.weight"):
        Backbone(find_weights("resnet10t", str(tmp_path / "half.safetensors")), (8,))


def test_local_file_is_loaded_and_may_lack_a_classifier(tmp_path: Path):
    model = timm.create_model("resnet10t", pretrained=False)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fc.")}
    save_file(state, tmp_path / "features.safetensors")
    weights = find_weights("resnet10t", str(tmp_path / "features.safetensors"))
    backbone = Backbone(weights, (8, 16))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval().forward_intermediates((images - backbone.mean) / backbone.std, indices=[2, 3])[1]
    for ours, theirs in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.max()))
    assert weights_identity(weights) == f"file:{file_sha256(tmp_path / 'features.safetensors')}"


def test_what_cannot_be_had_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ParameterError, match="not a timm model"):
        find_weights("resnet_50_wide", "hub")
    with pytest.raises(WeightsError, match="no file"):
        find_weights("resnet18", str(tmp_path / "absent.pth"))
    with pytest.raises(WeightsError, match="no offline weights"):
        find_weights("resnet18", "offline")
    with pytest.raises(ParameterError, match=r"model\.strides"):
        Backbone(find_weights(LITE0, "offline"), (8, 64))


def test_unreachable_hub_is_an_error_and_not_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("CLFLOW_CACHE", str(tmp_path / "cache"))
    weights = find_weights("resnet18.tv_in1k", "hub")
    with pytest.raises(WeightsError, match="was not downloaded before, and the model hub"):
        Backbone(weights, (8,))
    with pytest.raises(WeightsError, match="was not downloaded before, and the model hub"):
        weights_identity(weights)
    assert not (tmp_path / "cache").exists()


def test_digest_names_the_tensors_of_the_whole_model_but_for_its_classifier(lite0: Backbone, tmp_path: Path):
    assert lite0.digest() == Backbone(find_weights(LITE0, "offline"), (8, 16)).digest()
    assert lite0.digest() == Backbone(find_weights(LITE0, "offline"), (8,)).digest()
    assert lite0.digest() != Backbone(find_weights(LITE1, "offline"), (8, 16)).digest()

    def digest(state: dict[str, torch.Tensor]) -> str:
        save_file(state, tmp_path / "some.safetensors")
        return Backbone(find_weights("resnet10t", str(tmp_path / "some.safetensors")), (8,)).digest()

    state = timm.create_model("resnet10t", pretrained=False).state_dict()
    whole = digest(state)
    assert digest(state | {"fc.bias": state["fc.bias"] + 1}) == whole
    last = "layer4.0.conv1.weight"  # behind all strides that are used
    assert digest(state | {last: state[last] + 1}) != whole


def test_hub_weights_must_be_those_of_the_plan(lite0: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLFLOW_CACHE", str(tmp_path))
    hub = Weights(LITE0, None)
    record = tmp_path / "weights" / f"{LITE0}-timm-{timm.__version__}.json"  # as an earlier plan has left it
    write_json(record, {"digest": lite0.digest()})
    assert weights_identity(hub) == f"tensors:{lite0.digest()}"
    require_identity(lite0, hub, weights_identity(hub))
    write_json(record, {"digest": "another"})
    with pytest.raises(WeightsError, match=rf"not those of the plan.*remove {tmp_path / 'weights'}"):
        require_identity(lite0, hub, weights_identity(hub))
