"""Results of a sweep: an HTML page, CSV, JSON, and the best trial as an experiment."""

import csv
import html
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.offline
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf
from optuna import Study
from optuna import visualization as draw
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial

from common.figures import BLUE, cards, fill
from common.files import write_whole
from ml.runs.folder import run_config
from ml.sweep import standings
from ml.sweep.plan import Plan
from ml.sweep.settings import SweepError, compose_checked, hydra_loader, parse_override
from ml.sweep.standings import TrialCounts, shown_number, shown_values
from ml.training.config import CONFIGS, composing

_MARK = "# Written by //ml:sweep"


def experiment_path(plan: Plan) -> Path:
    """The path of the best trial's experiment."""
    return Path(plan.experiments) / f"{plan.experiment}.yaml"


def check_experiment_is_ours(plan: Plan) -> None:
    """Refuses to overwrite a file that no sweep wrote.

    Raises:
        SweepError: such a file exists.
    """
    path = experiment_path(plan)
    if path.exists() and _MARK not in path.read_text(encoding="utf-8"):
        raise SweepError(
            f"{path} was not written by a sweep and would be replaced: choose another name, "
            "sweep.experiment=…"
        )


def write_experiment(plan: Plan, best: FrozenTrial, found: int) -> Path:
    """Writes the trial's overrides as an experiment, after checking that it composes to the trial's
    configuration.

    Within `ml.sweep.settings.configuration`.

    Raises:
        SweepError: it would compose to something else; nothing was written.
    """
    overrides = [*plan.overrides, *plan.parse_space().overrides(best.params)]
    text = _header(plan, best, found) + experiment_text(plan.experiment, overrides)
    wanted = plan.compose_trial(plan.parse_space().overrides(best.params))
    if difference := _difference(plan, text, wanted):
        raise SweepError(f"experiment {plan.experiment} would not repeat the trial: {difference}")
    path = experiment_path(plan)
    write_whole(path, text)
    return path


def experiment_text(name: str, overrides: Sequence[str]) -> str:
    """The YAML of an experiment equivalent to a list of overrides; later ones win."""
    experiments: dict[str, None] = {}
    groups: dict[str, str] = {}
    values = OmegaConf.create({"name": name})
    for text in overrides:
        override = parse_override(text, hydra_loader())
        key = override.key_or_group
        if not _is_group(key):
            OmegaConf.update(values, key, override.value(), force_add=True)
        elif key == "experiment":
            experiments = {} if override.value() is None else {str(override.value()): None}
        else:
            groups[f"override /{key}"] = override.value()  # type: ignore[assignment]
    defaults = [*experiments, "_self_", *({key: value} for key, value in groups.items())]
    # Hydra requires overrides of groups at the end.
    head = {"defaults": defaults} if len(defaults) > 1 else {}
    return OmegaConf.to_yaml(OmegaConf.merge(head, values))


def _header(plan: Plan, best: FrozenTrial, found: int) -> str:
    names = [name for name, _ in plan.objectives]
    return (
        "# @package _global_\n"
        f"# {train_command(plan)}\n"
        f"{_MARK}: the best of {found} finished trials of the study {plan.name}, "
        f"trial {best.number}: {shown_values(names, best)}.\n"
        f"# {plan.typed}\n"
    )


def train_command(plan: Plan) -> str:
    return " ".join(("bazel run //ml:train", *plan.flags, f"experiment={plan.experiment}"))


def _difference(plan: Plan, text: str, wanted: DictConfig) -> str:
    """The first key whose value differs between an experiment's text and the trial."""
    with tempfile.TemporaryDirectory(prefix="kiln-experiment-") as folder:
        configs = Path(folder) / "configs"
        shutil.copytree(CONFIGS, configs, ignore=shutil.ignore_patterns("BUILD.bazel"))
        target = configs / "experiment" / f"{plan.experiment}.yaml"
        target.unlink(missing_ok=True)
        target.write_text(text, encoding="utf-8")
        with composing(configs):
            got = compose_checked("train", [f"experiment={plan.experiment}", "conclude=false"])
    have, want = _flat(run_config(got)), _flat(run_config(wanted))
    for key in sorted(have.keys() | want.keys()):
        if key != "name" and have.get(key) != want.get(key):
            return f"{key} would be {have.get(key)} instead of {want.get(key)}"
    return ""


def _flat(cfg: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(cfg, DictConfig):
        return {prefix: cfg}
    found: dict[str, Any] = {}
    for key in cfg:
        found |= _flat(cfg[key], f"{prefix}.{key!s}" if prefix else str(key))
    return found


def _is_group(key: str) -> bool:
    loader = hydra_loader()
    return "." not in key and bool(loader.get_group_options(key, ObjectType.CONFIG))


_TEMPLATE = Path(__file__).with_name("report_template.html")
_FEWEST_FOR_IMPORTANCE = 4
_STILL = {"displaylogo": False, "responsive": True}
_INK = plotly.colors.hex_to_rgb(BLUE)


def write_report(plan: Plan, study: Study, counts: TrialCounts) -> list[Path]:
    """Writes ``report.html``, ``trials.csv`` and ``trials.json`` into the sweep's folder."""
    folder = Path(plan.folder)
    rows = trial_rows(plan, study)
    files = {
        "report.html": _page(plan, study, counts, rows),
        "trials.csv": _csv(rows),
        "trials.json": json.dumps(rows, indent=2) + "\n",
    }
    for name, text in files.items():
        write_whole(folder / name, text)
    return [folder / name for name in files]


def trial_rows(plan: Plan, study: Study) -> list[dict[str, Any]]:
    """One row per trial: number, state, objectives, parameters, seconds, notes."""
    names = [name for name, _ in plan.objectives]
    rows = []
    for trial in study.get_trials(deepcopy=False):
        what = standings.outcome(trial)
        values = trial.values if what == "finished" else None
        duration = trial.duration
        rows.append(
            {
                "trial": trial.number,
                "state": what,
                **dict(zip(names, values or [None] * len(names), strict=True)),
                **{key: trial.params.get(key) for key in plan.space},
                "epochs": max(trial.intermediate_values, default=None),
                "seconds": round(duration.total_seconds(), 2) if duration else None,
                "same_as": trial.user_attrs.get(standings.REUSED),
                "continues": trial.user_attrs.get(standings.ORIGIN),
                "error": trial.user_attrs.get(standings.ERROR),
                "worker": trial.user_attrs.get(standings.WORKER),
            }
        )
    return rows


def figures(plan: Plan, study: Study) -> Iterator[tuple[str, str, Any]]:
    """Title, explanation and plotly figure of each plot with enough data."""
    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if standings.outcome(trial) == "finished"]
    names = [name for name, _ in plan.objectives]
    if not done:
        return
    if len(names) > 1:
        shown = study if len(names) <= 3 else None
        if shown:
            about = "no trial is better than these in every objective"
            yield "Pareto front", about, draw.plot_pareto_front(study, target_names=names)
    for index, name in enumerate(names):
        target = _target(index) if len(names) > 1 else None
        yield (
            f"History of {name}",
            "every trial, and the best so far",
            draw.plot_optimization_history(study, target=target, target_name=name),
        )
    varied = [key for key in plan.space if len({str(t.params.get(key)) for t in done}) > 1]
    if len(done) >= _FEWEST_FOR_IMPORTANCE and varied:
        for index, (name, direction) in enumerate(plan.objectives):
            # With a target, PED-ANOVA knows no direction and assumes that low values are good.
            low_is_good = 1 if direction == "minimize" else -1
            target = _target(index, low_is_good) if len(names) > 1 else None
            evaluator = PedAnovaImportanceEvaluator()
            yield (
                f"Importance for {name}",
                "importance of each parameter for being among the best trials (PED-ANOVA)",
                draw.plot_param_importances(
                    study, evaluator=evaluator, params=varied, target=target, target_name=name
                ),
            )
    for index, name in enumerate(names):
        target = _target(index) if len(names) > 1 else None
        yield (
            f"Parallel coordinates, {name}",
            "one line per trial; drag along an axis to select",
            _darkened(draw.plot_parallel_coordinate(study, target=target, target_name=name)),
        )
    if any(trial.intermediate_values for trial in trials):
        yield (
            f"{names[0]} by epoch",
            "pruned trials end early",
            draw.plot_intermediate_values(study),
        )


def _darkened(figure: Any) -> Any:
    """Optuna's scale begins near white, where the lines of trials would be invisible on a white
    page: all its colours are multiplied by a blue, which keeps their order."""

    def multiplied(colour: str) -> str:
        channels = zip(plotly.colors.unlabel_rgb(colour), _INK, strict=True)
        return str(plotly.colors.label_rgb([round(a * b / 255) for a, b in channels]))

    for trace in figure.data:
        if trace.mode == "lines" and trace.line.color.startswith("rgb"):
            trace.update(line_color=multiplied(trace.line.color), opacity=0.8)
        elif trace.marker.colorscale:
            trace.marker.colorscale = [[at, multiplied(c)] for at, c in trace.marker.colorscale]
    return figure


def _target(index: int, sign: int = 1) -> Callable[[FrozenTrial], float]:
    return lambda trial: sign * trial.values[index]


def _page(plan: Plan, study: Study, counts: TrialCounts, rows: Sequence[dict[str, Any]]) -> str:
    leader = standings.best(study)
    parts = {
        "title": html.escape(plan.name),
        "plotly": plotly.offline.get_plotlyjs(),
        "cards": _cards(plan, leader, counts, rows),
        "experiment": html.escape(f"bazel run //ml:train experiment={plan.experiment}"),
        "best": html.escape(_best_text(plan, leader)),
        "figures": "".join(_sections(plan, study)),
        "table": _table(rows, study),
        "search": html.escape(_search_text(plan)),
    }
    return fill(_TEMPLATE, parts)


def _sections(plan: Plan, study: Study) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="PedAnova")
        for title, about, figure in figures(plan, study):
            figure.update_layout(title=None, margin={"t": 30}, template="plotly_white")
            drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=_STILL)
            yield (
                f"<section><h2>{html.escape(title)} <small>{html.escape(about)}</small></h2>"
                f"{drawn}</section>\n"
            )


def _cards(
    plan: Plan, leader: FrozenTrial | None, counts: TrialCounts, rows: Sequence[dict[str, Any]]
) -> str:
    states = [row["state"] for row in rows]
    same = sum(row["same_as"] is not None for row in rows)
    facts = {"trials": f"{counts.used} of {counts.total}"}
    if leader:
        for (name, _), value in zip(plan.objectives, leader.values, strict=True):
            facts[f"{name}, best trial"] = shown_number(value)
    facts |= {
        "trained to the end": str(states.count("finished") - same),
        "repetitions, not trained": str(same),
        "pruned": str(states.count("pruned")),
        "failed": str(states.count("failed")),
        "lost workers": str(states.count("lost")),
    }
    return cards(facts.items())


def _best_text(plan: Plan, leader: FrozenTrial | None) -> str:
    if leader is None:
        return "no trial has finished yet"
    names = [name for name, _ in plan.objectives]
    params = "\n".join(f"{key}={value}" for key, value in leader.params.items())
    return f"trial {leader.number}: {standings.shown_values(names, leader)}\n\n{params}"


def _search_text(plan: Plan) -> str:
    objectives = [f"{direction} {name}" for name, direction in plan.objectives]
    space = [f"  {key}: {text}" for key, text in plan.space.items()]
    return "\n".join(
        [
            f"{', '.join(objectives)}; sampler {plan.sampler}, pruner {plan.pruner}, "
            f"seed {plan.seed}",
            *space,
            "every trial: " + (" ".join(plan.overrides) or "the default configuration"),
        ]
    )


def _table(rows: Sequence[dict[str, Any]], study: Study) -> str:
    ranked, front = standings.ranked(study), standings.front_of(study)
    order = {trial.number: place for place, trial in enumerate(ranked)}
    best = {trial.number for trial in front or ranked[:1]}
    shown = [row for row in rows if row["state"] not in ("surplus", "waiting")]
    shown.sort(key=lambda row: (order.get(row["trial"], len(order)), row["trial"]))
    columns = [name for name in (shown[0] if shown else {}) if name != "worker"]
    columns = [name for name in columns if any(row[name] is not None for row in shown)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = []
    for row in shown:
        number = row["trial"]
        kind = "best" if number in best else "" if number in order else "faint"
        cells = "".join(f"<td>{html.escape(_cell(row[name]))}</td>" for name in columns)
        body.append(f'<tr class="{kind}">{cells}</tr>')
    return f"<tr>{head}</tr>{''.join(body)}"


def _cell(value: object) -> str:
    return "" if value is None else shown_number(value)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
