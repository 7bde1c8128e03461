"""Muon against its definition, SGD against PyTorch's own."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ml.training.callbacks import learning_rates
from ml.training.networks import ResNet
from ml.training.optimizers import Muon, adamw, muon, orthogonalise, sgd

_RATES: dict[str, Any] = {
    "filter_lr": 0.24,
    "bias_lr": 0.05,
    "head_lr": 0.6,
    "filter_momentum": 0.6,
    "momentum": 0.85,
    "weight_decay": 1e-3,
}


@pytest.mark.parametrize("shape", [(8, 27), (27, 8), (16, 16)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_the_vectors(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalise(matrix, steps=6)
    assert torch.linalg.svdvals(result).sub(1).abs().max() < 0.4
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(result.flatten(), (u @ v).flatten(), 0) > 0.95


@pytest.mark.parametrize(
    ("named", "native", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("float32", True, torch.float32),
    ],
)
def test_steps_are_orthogonalised_in_bfloat16_only_where_it_is_native_or_asked_for(
    monkeypatch: pytest.MonkeyPatch, named: Any, native: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr("ml.training.optimizers.multiplies_bfloat16", lambda device: native)
    stepper = muon(ResNet(widths=(4, 8, 8)), **_RATES, orthogonalise_in=named)
    assert _dtypes_of_products(stepper) == {expected}


def _dtypes_of_products(stepper: Muon) -> set[torch.dtype]:
    """What the matrix products of one step are computed in."""
    seen = set[torch.dtype]()

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten.mm.default:
                seen.add(args[0].dtype)
            return func(*args, **(kwargs or {}))

    for group in stepper.param_groups:
        for weight in group["params"]:
            weight.grad = torch.ones_like(weight)
    with Watching():
        stepper.step()
    return seen


def test_groups_without_orthogonal_steps_follow_pytorchs_sgd() -> None:
    ours, theirs = (nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizers = [
        Muon([{"params": ours.parameters(), **options}]),
        torch.optim.SGD(theirs.parameters(), nesterov=True, **options),
    ]
    data = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            layer(data).pow(2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_filters_keep_the_norm_that_their_count_gives_them_before_each_step() -> None:
    conv = nn.Conv2d(3, 9, 3, bias=False)
    optimizer = Muon([{"params": [conv.weight], "lr": 0.0, "orthogonal": True}])
    conv(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert conv.weight.norm().item() == pytest.approx(3.0, rel=1e-5)


def test_muon_trains_every_weight_that_wants_training_once() -> None:
    network = ResNet(widths=(4, 8, 8))
    optimizer = muon(network, **_RATES)
    held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(w) for w in network.parameters() if w.requires_grad)


def test_each_group_has_the_rate_that_the_configuration_gives_it_under_the_same_name() -> None:
    network = ResNet(widths=(4, 8, 8))
    named = {key: value for key, value in _RATES.items() if key.endswith("_lr")}
    assert learning_rates(muon(network, **_RATES)) == named
    assert learning_rates(sgd(network, lr=0.1, momentum=0.9, weight_decay=0.1)) == {"lr": 0.1}


def test_groups_without_names_are_told_apart_where_their_rates_differ() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [weight], "lr": lr} for weight, lr in zip(weights, (1, 2), strict=True)]
    assert learning_rates(torch.optim.SGD(groups)) == {"lr": 1, "lr_1": 2}


def test_muon_refuses_parameters_of_a_shape_without_a_rule() -> None:
    network = nn.Module()
    network.volume = nn.Parameter(torch.zeros(1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4, 5\)"):
        muon(network, **_RATES)


def test_optimizer_state_survives_a_checkpoint() -> None:
    network = ResNet(widths=(4, 8, 8))
    images = torch.rand(4, 3, 20, 20)
    optimizer = muon(network, **_RATES)

    def step(model: ResNet, stepper: torch.optim.Optimizer) -> None:
        stepper.zero_grad()
        model(images).pow(2).sum().backward()
        stepper.step()

    step(network, optimizer)
    twin = copy.deepcopy(network)
    other = muon(twin, **_RATES)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(network, optimizer)
    step(twin, other)
    torch.testing.assert_close(network.state_dict(), twin.state_dict(), rtol=0, atol=0)


def test_sgd_decays_weights_but_not_biases() -> None:
    decayed, kept = sgd(
        ResNet(widths=(4, 8, 8)), lr=0.1, momentum=0.9, weight_decay=0.1
    ).param_groups
    assert decayed["weight_decay"] == 0.1
    assert {w.ndim for w in decayed["params"]} == {2, 4}
    assert kept["weight_decay"] == 0.0
    assert {w.ndim for w in kept["params"]} == {1}


@pytest.mark.parametrize("make", [sgd, adamw])
def test_named_layers_have_rates_of_their_own_under_their_names(make: Any) -> None:
    network = ResNet(widths=(4, 8, 8))
    options = {"momentum": 0.9} if make is sgd else {}
    rates = {"groups": 0.01, "groups.0": 0.001}
    optimizer = make(network, lr=0.1, weight_decay=0.5, layer_lr=rates, **options)
    assert learning_rates(optimizer) == {"lr": 0.1, "groups_lr": 0.01, "groups.0_lr": 0.001}
    by_rate = {lr: set[int]() for lr in (0.1, 0.01, 0.001)}
    for group in optimizer.param_groups:
        by_rate[group["lr"]] |= {id(weight) for weight in group["params"]}
        assert all((w.ndim > 1) == (group["weight_decay"] > 0) for w in group["params"])
    assert sum(map(len, by_rate.values())) == len(set[int]().union(*by_rate.values()))
    assert by_rate[0.1] == {id(network.head.weight)}
    trained = {id(w) for w in network.groups[0].parameters() if w.requires_grad}
    assert by_rate[0.001] == trained
