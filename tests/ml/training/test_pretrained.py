"""Networks of torchvision, and weights that a training starts from."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from ml.artifact.evaluation import torch_probabilities
from ml.artifact.export import PARITY_TOLERANCE, parity_gap, to_onnx
from ml.artifact.simplify import simplify
from ml.artifact.weights import ScalesLogits
from ml.training.callbacks import save_weights
from ml.training.networks import ResNet
from ml.training.pretrained import head_of, load_initial, torchvision_model

_SMALLEST = "shufflenet_v2_x0_5"
_STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def test_any_classifier_of_torchvision_answers_a_logit_for_each_class() -> None:
    for name in (_SMALLEST, "squeezenet1_1", "mobilenet_v3_small"):
        network = torchvision_model(7, model=name).eval()
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", [_SMALLEST, "squeezenet1_1"])
def test_calibration_scales_its_logits(name: str) -> None:
    network, images = torchvision_model(7, model=name).eval(), torch.randn(2, 3, 64, 64)
    assert isinstance(network, ScalesLogits)
    with torch.no_grad():
        before = network(images)
        network.scale_logits(0.25)
        torch.testing.assert_close(network(images), before / 4)


def test_small_images_keep_their_resolution_and_published_weights_fit() -> None:
    usual, small = (torchvision_model(7, model="resnet18", small_images=s) for s in (False, True))
    small.load_state_dict(usual.state_dict())
    images = torch.zeros(1, 3, 32, 32)
    assert usual.conv1(images).shape[-1] == 16  # type: ignore[operator]
    assert small.maxpool(small.conv1(images)).shape[-1] == 32  # type: ignore[operator]


@pytest.mark.parametrize(
    ("model", "options", "complaint"),
    [
        ("resnet17", {}, "resnet17: expected one such as resnet"),
        ("fcn_resnet50", {}, "expected one such as"),
        (_SMALLEST, {"dropot": 0.1}, "dropot"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(
    model: str, options: dict[str, float], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        torchvision_model(7, model=model, options=options)


def test_its_export_answers_as_it_does() -> None:
    torch.manual_seed(0)
    network = torchvision_model(5, model="squeezenet1_1").eval()
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    answers = torch_probabilities(network, images, *_STATISTICS)
    model = simplify(to_onnx(network, (32, 32), *_STATISTICS)).model
    assert parity_gap(model, images, answers) < PARITY_TOLERANCE


def _saved(folder: Path, network: nn.Module) -> Path:
    path = folder / "network.pth"
    save_weights(network, path)
    return path


def test_a_published_file_starts_another_number_of_classes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    published = torchvision.models.get_model(_SMALLEST, weights=None, num_classes=1000)
    network = torchvision_model(7, model=_SMALLEST)
    fresh = load_initial(network, _saved(tmp_path, published))
    assert fresh == ["fc.weight", "fc.bias"]
    assert torch.equal(network.conv1[0].weight, published.conv1[0].weight)  # type: ignore[index, union-attr]
    assert head_of(network) == "fc"


def test_a_checkpoint_of_the_same_classes_is_taken_whole(tmp_path: Path) -> None:
    trained, network = ResNet(widths=(4, 8, 8)), ResNet(widths=(4, 8, 8))
    nn.init.normal_(trained.head.weight)
    state = {f"network.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    assert load_initial(network, tmp_path / "last.ckpt") == []
    torch.testing.assert_close(network.state_dict(), trained.state_dict())


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    network = ResNet(widths=(4, 8, 8))
    path = _saved(tmp_path, ResNet(widths=(4, 8, 16)))
    with pytest.raises(
        ValueError, match=r"groups\.2\.widen\.weight \(16, 8, 3, 3\) instead of \(8"
    ):
        load_initial(network, path)
    path = _saved(tmp_path, torchvision_model(10, model=_SMALLEST))
    with pytest.raises(ValueError, match=r"stem\.conv\.weight"):
        load_initial(network, path)


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_file_without_weights_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "network.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"network\.pt"):
        load_initial(ResNet(widths=(4, 8, 8)), path)
