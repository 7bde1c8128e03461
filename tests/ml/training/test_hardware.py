"""The trainer that fits this machine."""

import pytest
import torch

from common.lightning import lightning
from ml.training import hardware
from ml.training.hardware import best_precision, describe_device, make_trainer

_QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16-mixed"),
        ({"avx512_f": True, "avx512_bf16": False}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_precision_follows_what_the_processor_multiplies_natively(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert best_precision("cpu") == expected


@pytest.mark.parametrize("cpus", [1, 3])
def test_threads_are_as_many_as_a_container_may_use(
    monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(hardware, "available_cpus", lambda: cpus)
    try:
        torch.set_num_threads(2)
        make_trainer(accelerator="cpu", precision="32-true", max_epochs=1, **_QUIET)
        assert torch.get_num_threads() == min(2, cpus)
    finally:
        torch.set_num_threads(before)


def test_a_named_precision_is_kept() -> None:
    trainer = make_trainer(accelerator="cpu", precision="32-true", max_epochs=1, **_QUIET)
    assert isinstance(trainer, lightning.Trainer)
    assert trainer.precision == "32-true"


def test_device_description_names_processor_and_threads() -> None:
    trainer = make_trainer(accelerator="cpu", precision="auto", max_epochs=1, **_QUIET)
    assert describe_device(trainer).startswith("cpu: ")
    assert describe_device(trainer).endswith(f"{torch.get_num_threads()} threads")
