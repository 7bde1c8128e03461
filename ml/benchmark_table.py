"""A benchmark's results as a table."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from ml.benchmark_rounds import UNSTEADY, Benchmark, Result

_LATENCIES = ("p50 ms", "p95 ms", "p99 ms")
_SIZES = ("size MB", "memory MB", "cold load s")


def print_table(result: Benchmark, console: Console) -> None:
    """One row per contender, number of threads and batch size; then what to doubt, and the peak."""
    title = f"{result.processor}: {result.flops_per_image / 1e6:.1f} MFLOP per image"
    table = Table(title=title)
    for name in ("model", "threads", "batch", *_LATENCIES, "images/s", "±", "GFLOP/s", "of peak"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name in _SIZES:
        table.add_column(name, justify="right")
    for row in result.results:
        for cells in _cells(row, result):
            table.add_row(*cells)
        table.add_section()
    console.print(table)
    for row in result.results:
        if row.skipped:
            text = f"{row.name}, threads {row.threads}: {row.skipped}"
            console.print(text, markup=False, highlight=False)
    peaks = ", ".join(f"{peak:.0f} with threads: {n}" for n, peak in result.peak_gflops.items())
    console.print(f"Peak of this machine, fp32 matrix product, GFLOP/s: {peaks}", highlight=False)
    for warning in result.warnings():
        text = f"Doubt these figures: {warning}. Repeat on an idle machine."
        console.print(text, style="yellow", highlight=False)


def _cells(row: Result, result: Benchmark) -> Iterator[list[str]]:
    if row.measurement is None:
        yield [row.name, str(row.threads), *["–"] * (5 + len(_LATENCIES) + len(_SIZES))]
        return
    m, peak = row.measurement, result.peak_gflops[row.threads]
    sizes = [f"{row.size_bytes / 1e6:.2f}", f"{m.peak_memory_bytes / 1e6:.0f}"]
    sizes.append(f"{m.cold_load_s:.2f}")
    for index, p in enumerate(m.points):
        gflops = p.images_per_s * result.flops_per_image / 1e9
        half = p.spread / 2
        steady = f"{half:.0%}" if p.spread <= UNSTEADY else f"[yellow]{half:.0%}[/]"
        yield [
            *([row.name, str(row.threads)] if index == 0 else ["", ""]),
            str(p.batch),
            *(f"{ms:.2f}" for ms in (p.p50_ms, p.p95_ms, p.p99_ms)),
            f"{p.images_per_s:.0f}",
            steady,
            f"{gflops:.1f}",
            f"{gflops / peak:.0%}",
            *(sizes if index == 0 else [""] * len(sizes)),
        ]
