"""Prints the summary of a finished run."""

from typing import Any

from rich.console import Console

from ml.runs.folder import RunFolder


def print_summary(console: Console, run: RunFolder, summary: dict[str, Any]) -> None:
    """The scores of a run and where its files are."""
    metric = summary["monitor"]
    if summary.get("fast_dev_run"):
        console.print(
            f"\n[bold green]One batch trained and one validated[/]: {metric} "
            f"{summary[metric]:.4f}, which means nothing. Nothing was kept.",
            highlight=False,
        )
    elif "test" not in summary:
        console.print(
            f"\n[bold green]Best {metric} {summary[metric]:.4f}[/] at epoch "
            f"{summary['best_epoch']}; not tested, not exported (conclude=false)\n"
            f"  summary  {run.summary}\n  metrics  {run.metrics}",
            highlight=False,
        )
    else:
        console.print("\n".join(_results(run, summary)), highlight=False)


def _results(run: RunFolder, summary: dict[str, Any]) -> tuple[str, ...]:
    test, version = summary["test"], summary["model_version"][:12]
    return (
        f"\n[bold green]Test accuracy {test['accuracy']:.2%}[/], macro F1 {test['macro_f1']:.4f}, "
        f"loss {test['loss']:.4f}, calibration error {test['calibration_error']:.4f} "
        f"({test['images']:,} images, seen once)",
        f"Validation best at epoch {summary['best_epoch']}; "
        f"training took {summary['training_s']:.0f} s, export {summary['export_s']:.0f} s; "
        f"ONNX and PyTorch agree within {summary['parity']:.1e}",
        f"  model    {run.model}  ({summary['model_bytes'] / 1e6:.2f} MB, version {version})",
        f"  summary  {run.summary}",
        f"  metrics  {run.metrics}",
        f"  plots    {run.plots}",
        f"  report   {run.report}",
    )
