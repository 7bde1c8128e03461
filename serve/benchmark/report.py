"""The figures as tables for people."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from serve.benchmark.bare import Bare

if TYPE_CHECKING:
    from serve.benchmark.main import Result


def show(results: "Sequence[Result]", bare: Mapping[str, Bare], cpus: int) -> None:
    """Prints both tables and the ratios that they are read for."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(_throughput(results, cpus))
    console.print(_cost(results))
    for line in ratios(results, bare):
        console.print(line)


def _throughput(results: "Sequence[Result]", cpus: int) -> Table:
    table = Table(title=f"/predict on {cpus} processors, latencies in milliseconds")
    table.add_column("server")
    for name in ("callers", "requests/s", "p50", "p95", "p99", "max", "not 200"):
        table.add_column(name, justify="right")
    for result in results:
        loads = [(str(callers), load) for callers, load in result.closed.items()]
        if result.half_load is not None:
            loads.append(("half load", result.half_load))
        for place, (callers, load) in enumerate(loads):
            latencies = (load.p50_ms, load.p95_ms, load.p99_ms, load.max_ms)
            table.add_row(
                "" if place else result.name,
                callers,
                f"{load.throughput:,.0f}",
                *(f"{latency:.2f}" for latency in latencies),
                str(sum(count for status, count in load.statuses.items() if status != "200")),
                end_section=place == len(loads) - 1,
            )
    return table


def _cost(results: "Sequence[Result]") -> Table:
    table = Table(title="What it takes")
    table.add_column("server")
    for name in ("cold start, s", "memory, MB", "CPU, µs/request", "/predict/batch, images/s"):
        table.add_column(name, justify="right")
    for result in results:
        if result.failure:
            table.add_row(result.name, "failed", "", "", "")
            continue
        batch = result.batch_images_per_s
        table.add_row(
            result.name,
            f"{result.cold_start_s:.2f}",
            f"{result.memory_mb:.0f}",
            f"{result.cpu_us_per_request:,.0f}",
            f"{batch:,.0f}" if batch else "",
        )
    return table


def ratios(results: "Sequence[Result]", bare: Mapping[str, Bare]) -> list[str]:
    """What the first server reaches of the others and of the machine."""
    first = results[0]
    if first.failure:
        return []
    ceiling = next(iter(bare.values()))
    most = max(first.closed)
    lines = []
    peers = [one for one in results if not one.name.startswith("Kiln") and not one.failure]
    if peers:
        best = max(peers, key=lambda one: one.closed[most].throughput)
        ratio = first.closed[most].throughput / best.closed[most].throughput
        lines.append(f"{most} callers: {ratio:.2f} times {best.name}, the best of the peers")
    alone = ceiling.decode_ms + ceiling.run_ms
    lines.append(
        f"a lone request: {first.closed[1].p50_ms / alone:.2f} times decoding and running the "
        f"model without a service ({alone:.2f} ms)"
    )
    if first.batch_images_per_s:
        share = first.batch_images_per_s / ceiling.batch_images_per_s
        lines.append(
            f"batches of 100: {share:.2f} times onnxruntime on decoded images "
            f"({ceiling.batch_images_per_s:,.0f} images/s)"
        )
    if first.half_load:
        lines.append(
            f"half load: p99 is {first.half_load.p99_ms / first.half_load.p50_ms:.1f} × p50"
        )
    return lines
