"""Training speed of each preset on this machine, natively and restricted to AVX2.

Environment variables restrict PyTorch and oneDNN to AVX2, so that a new machine shows where an
older one spends its time; clock and caches stay those of the new one. Each row is a separate
process.

  bazel run //ml:training_benchmark
  bazel run //ml:training_benchmark -- --presets small large --json speed.json
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from common.command_line import command_parser
from common.files import user_path, write_whole
from common.programs import python_environment
from common.terminal import Progress, duration, terminal
from ml.training.config import LADDER, composed

AS_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
_MACHINES: dict[str, dict[str, str]] = {"native": {}, "as AVX2": AS_AVX2}


@dataclass(frozen=True)
class Row:
    """Training speed of one preset on one kind of machine.

    Attributes:
        images_per_s: forward and backward pass, at the preset's largest size.
        step_ms: one step of the optimizer.
        bfloat16_step_ms: the same with bfloat16 matrix products, which only some CPUs support.
        training_s: the whole training, estimated.
    """

    machine: str
    preset: str
    precision: str
    images_per_s: float
    step_ms: float
    bfloat16_step_ms: float
    training_s: float


def main(arguments: Sequence[str], console: Console) -> int:
    parser = command_parser("//ml:training_benchmark", __doc__)
    add = parser.add_argument
    add("--presets", nargs="+", choices=LADDER, default=list(LADDER))
    add("--json", help="file to write the figures to")
    # Measure one row in this process.
    add("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(asdict(measure(*options.measure))))
        return 0
    wanted = [(machine, preset) for machine in _MACHINES for preset in options.presets]
    rows = list[Row]()
    with Progress("measuring", len(wanted), console=console) as progress:
        for machine, preset in wanted:
            progress.update(len(rows), detail=f"{preset}, {machine}")
            rows.append(_in_own_process(machine, preset))
    console.print(_table(rows))
    if options.json:
        figures = {"cpu": _cpu(), "rows": [asdict(row) for row in rows]}
        write_whole(user_path(options.json), json.dumps(figures, indent=2) + "\n")
    return 0


def measure(machine: str, preset: str) -> Row:
    """Measures one row in the environment of this process."""
    from ml.training.presets import measure_speed, settle, training_seconds

    # PyTorch's check for bfloat16 reads the CPU, not the variables.
    old = ["trainer.precision=32-true", "optimizer.orthogonalise_in=float32"]
    chosen = [f"preset={preset}", "trainer=cpu", *(old if machine == "as AVX2" else [])]
    cfg = settle(composed(chosen))
    emulated = composed([*chosen, "optimizer.orthogonalise_in=bfloat16"])
    speed = measure_speed(cfg)
    return Row(
        machine=machine,
        preset=preset,
        precision=cfg.trainer.precision,
        images_per_s=1 / speed.image_s,
        step_ms=1e3 * speed.step_s,
        bfloat16_step_ms=1e3 * measure_speed(settle(emulated)).step_s,
        training_s=training_seconds(cfg, speed),
    )


def _in_own_process(machine: str, preset: str) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "ml.benchmark.training", "--measure", machine, preset],
        env=python_environment() | _MACHINES[machine],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def _cpu() -> str:
    import torch

    return str(torch.cpu.get_capabilities().get("cpu_name") or "unknown CPU")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title=f"Training on {_cpu()}")
    table.add_column("machine")
    table.add_column("preset")
    table.add_column("precision")
    for name in ("images/s", "optimizer step", "… in bfloat16", "training"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.machine,
            row.preset,
            row.precision,
            f"{row.images_per_s:,.0f}",
            f"{row.step_ms:.0f} ms",
            f"{row.bfloat16_step_ms:.0f} ms",
            duration(row.training_s),
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
