"""The network: shapes, the whitening stem, the identity start."""

import copy

import pytest
import torch

from ml.training.networks import ConvGroup, HalvingPool, ResNet, WhiteningStem, conv3x3

GREY = torch.randn(64, 1, 20, 20, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("size", [2, 4, 8, 16, 18, 24, 28, 32, 40])
def test_network_answers_images_of_any_size_with_logits(size: int) -> None:
    network = ResNet(classes=7, widths=(4, 8, 8), depths=(2, 2, 3))
    assert network(torch.rand(3, 3, size, size)).shape == (3, 7)


@pytest.mark.parametrize(("edge", "left"), [(1, 1), (2, 1), (3, 2), (5, 2), (8, 4), (15, 7)])
def test_pooling_keeps_the_edge_of_a_small_map(edge: int, left: int) -> None:
    spike = torch.zeros(1, 1, edge, edge)
    spike[..., -1, -1] = 1
    pooled = HalvingPool()(spike)
    assert pooled.shape == (1, 1, left, left)
    assert (pooled[..., -1, -1] == 1) == (edge <= 3 or edge % 2 == 0)


def test_network_refuses_depths_that_do_not_match_widths() -> None:
    with pytest.raises(ValueError, match=r"widths.*depths.*\[4, 8\], \[2\]"):
        ResNet(widths=(4, 8), depths=(2,))


def test_whitening_stem_decorrelates_patches_and_gives_them_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 16, 16, generator=generator).cumsum(3) / 4  # neighbours correlate
    stem = WhiteningStem()
    stem.fit(images, epsilon=0.0)
    vectors = stem.conv(images)[:, : stem.channels // 2].permute(1, 0, 2, 3).flatten(1).double()
    moments = vectors @ vectors.T / vectors.shape[1]
    torch.testing.assert_close(moments, torch.eye(12).double(), atol=2e-3, rtol=0.0)


def test_whitening_stem_keeps_both_signs_of_every_component_and_is_not_trained() -> None:
    stem = WhiteningStem()
    stem.fit(torch.rand(8, 3, 8, 8))
    positive, negative = stem.conv.weight.chunk(2)
    assert torch.equal(positive, -negative)
    assert not any(weight.requires_grad for weight in stem.parameters())


def test_whitening_stem_gives_nothing_where_nothing_varies() -> None:
    stem = WhiteningStem()
    stem.fit(GREY)
    strength = stem(GREY).abs().amax((0, 2, 3))
    assert (strength == 0).sum() == 2 * 8  # the differences of the colours; grey patches vary in 4
    assert strength[strength > 0].min() > 0.1


def test_every_filter_of_a_network_for_grey_images_learns() -> None:
    torch.manual_seed(0)
    network = ResNet(widths=(16, 16, 16))
    network.initialise_from(GREY)
    network(GREY).sum().backward()
    gradient = next(network.groups.parameters()).grad
    assert gradient is not None
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_what_bfloat16_trained_on_grey_images_is_the_same_in_float32() -> None:
    torch.manual_seed(0)
    network = ResNet(widths=(8, 8, 8))
    network.initialise_from(GREY)
    for _ in range(20):  # the statistics of batch normalisation, as in training
        with torch.autocast("cpu", torch.bfloat16):
            network(GREY)
    network.eval()
    exact = copy.deepcopy(network).double()
    torch.testing.assert_close(network(GREY), exact(GREY.double()).float(), atol=1e-4, rtol=1e-4)


def test_convolution_starts_as_the_identity_on_its_input_channels() -> None:
    features = torch.rand(2, 5, 6, 6)
    torch.testing.assert_close(conv3x3(5, 8)(features)[:, :5], features)


def test_convolution_that_narrows_still_starts_from_finite_weights() -> None:
    assert conv3x3(8, 5).weight.isfinite().all()


@pytest.mark.parametrize("depth", [3, 5])
def test_deep_group_is_bypassed_by_residual_connections(depth: int) -> None:
    group = ConvGroup(3, 4, depth=depth).eval()
    with torch.no_grad():
        for block in group.blocks:
            next(block.parameters()).zero_()
    features = torch.rand(2, 3, 8, 8)
    shortcut = group.activation(group.norm(group.pool(group.widen(features))))
    torch.testing.assert_close(group(features), group.activation(shortcut))
