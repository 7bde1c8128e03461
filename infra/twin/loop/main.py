"""Plays the twin's second story: bazel run //infra:twin -- --story loop

A model is trained, released and answers; the camera changes; the service raises drift and the
accuracy to expect without labels falls; callers send the truth about answers; //ml:retrain makes
the next model, gated and signed; a canary with live labels promotes it; the estimate recovers.
Then the same with a fifth of the labels wrong, which must promote nothing. Writes loop.json and
loop.png.

Exit codes: 0 every promise was kept, 1 one was not, 2 the machine or the input cannot be used, 130
interrupted before the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from rich.markup import escape

from common.figures import BLUE, GREEN, RED, STYLE, new_figure, to_png
from common.files import user_path, write_whole
from common.terminal import terminal
from infra.twin.findings import Finding, show
from infra.twin.loop.canary import LabelledResponse
from infra.twin.loop.programs import NAMES, Alarm, Programs
from infra.twin.loop.story import TRAINED_ON, Estimate, Loop, Observed, Plan, as_dict
from infra.twin.story import Failed, Narrator, output_folder

KEPT, BROKEN, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    narrator = Narrator(terminal(140))
    paths = {name: getattr(options, name.replace("-", "_")) for name in NAMES}
    plan = Plan(
        options.rate,
        endings=options.endings,
        corruption=options.corruption,
        seed=options.seed,
        run=options.run and user_path(options.run),
    )
    try:
        place = output_folder(options.out)
        with tempfile.TemporaryDirectory(prefix="kiln-loop-") as folder, narrator.working():
            kept = options.keep and place / "loop"
            programs = Programs(paths, (kept or Path(folder)).absolute(), narrator)
            programs.workspace.mkdir(parents=True, exist_ok=True)
            observed = Loop(programs, plan, narrator).play()
    except (Failed, OSError) as error:
        terminal(140, stderr=True).print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        return UNUSABLE
    except KeyboardInterrupt:
        narrator.say("interrupted: nothing of it runs any more")
        return INTERRUPTED
    findings = find(observed)
    kept_all = all(finding.kept for finding in findings)
    document = {"kept": kept_all, "findings": [asdict(f) for f in findings], **as_dict(observed)}
    write_whole(place / "loop.json", json.dumps(document, indent=2, default=str) + "\n")
    write_whole(place / "loop.png", draw(observed))
    narrator.say(f"wrote {place / 'loop.json'} and loop.png")
    show(findings, observed.took_s, narrator.console)
    return KEPT if kept_all else BROKEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bazel run //infra:twin -- --story loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in NAMES:
        parser.add_argument(f"--{name}", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=120.0, help="requests a second (%(default)g)")
    parser.add_argument(
        "--corruption", default="contrast:3", help="what happens to the camera (%(default)s)"
    )
    parser.add_argument(
        "--endings", type=int, default=1, help="how often wrong labels are tried (%(default)s)"
    )
    parser.add_argument(
        "--run",
        metavar="FOLDER",
        help=f"the first model's, trained with data.train_size={TRAINED_ON} (default: trains it)",
    )
    parser.add_argument("--keep", action="store_true", help="keep runs, registry and captures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FOLDER", help="(default: .kiln/twin)")
    return parser


LEAST_GAIN, MOST_LOSS, MOST_S = 0.05, 0.003, 600.0


def find(observed: Observed) -> list[Finding]:
    """Checks every promise of the story."""
    old, new = observed.models
    camera = next(t for t, name in observed.phases if name.startswith("the camera"))
    alarms = [a for a in observed.alarms if a.raised]
    raised = [a.time_s for a in alarms if a.model == old and a.time_s > camera]
    clean, shifted = (_at(observed, old, place) for place in (0, 1))
    after = [one for one in observed.estimates if one.model == new]
    retrained = observed.retrained
    gain, loss = observed.shifted[1] - observed.shifted[0], observed.tested[0] - observed.tested[1]
    failed = sum(answer.status != 200 for answer in observed.answers)
    found = [
        Finding(
            "the drift alarm is raised once the camera has changed, and not before",
            bool(raised) and not any(a.time_s <= camera for a in alarms),
            f"after {min(raised) - camera:.0f} s" if raised else "never",
        ),
        Finding(
            "the accuracy expected without labels falls",
            bool(clean and shifted and shifted.high < clean.low),
            _words(clean, shifted),
        ),
        Finding(
            "a better model is trained and passes the gates",
            bool(retrained and retrained.exit_code == 0),
            f"{retrained.decision}: {retrained.says}" if retrained else "none",
        ),
        Finding(
            "the canary promotes it, with live labels among the evidence",
            bool(observed.verdict and observed.verdict.decision == "promote")
            and min(arm.right + arm.wrong for arm in observed.labelled) > 0,
            "; ".join(observed.verdict.reasons) if observed.verdict else "no verdict",
        ),
        Finding(
            "the expected accuracy recovers",
            bool(after and shifted and after[-1].low > shifted.high),
            _words(shifted, after[-1] if after else None),
        ),
        Finding(
            f"on shifted images that neither has seen it is {100 * LEAST_GAIN:g} points better",
            gain >= LEAST_GAIN,
            f"{observed.shifted[0]:.2%}, then {observed.shifted[1]:.2%}: {100 * gain:+.2f} points",
        ),
        Finding(
            f"on the original test set it loses {100 * MOST_LOSS:g} points at most",
            loss <= MOST_LOSS,
            f"{observed.tested[0]:.2%}, then {observed.tested[1]:.2%}: {-100 * loss:+.2f} points",
        ),
        Finding("no request fails", failed == 0, f"{failed} of {len(observed.answers):,}"),
        Finding(
            f"it takes {MOST_S / 60:g} minutes at most",
            observed.took_s <= MOST_S,
            f"{observed.took_s:.0f} s",
        ),
    ]
    promoted = sum(one.exit_code == 0 for one in observed.endings)
    if observed.endings:
        said = sorted({f"{one.decision}" for one in observed.endings})
        found.append(
            Finding(
                "wrong labels never get a model promoted",
                promoted == 0,
                f"{promoted} of {len(observed.endings)}; {', '.join(said)}",
            )
        )
    return found


def _at(observed: Observed, model: str, place: int) -> Estimate | None:
    found = [one for one in observed.estimates if one.model == model]
    return found[place] if place < len(found) else None


def _words(*estimates: Estimate | None) -> str:
    return ", then ".join(
        f"{e.value:.1%} ({e.low:.1%} to {e.high:.1%})" if e else "nothing" for e in estimates
    )


_BIN_S = 3.0
_SHORT = {"canary with live labels": "canary", "the first model": "training"}


def draw(observed: Observed) -> bytes:
    """PNG over the seconds since the first answer: accuracy as callers know it and as it is
    expected without labels, and who answered."""
    start = observed.answers[0].time_s
    old, new = observed.models
    with matplotlib.rc_context(STYLE):
        figure = new_figure(13, 8)
        accuracy, traffic = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        for model, color, name in ((old, BLUE, "the first model"), (new, GREEN, "the next model")):
            mine = [one for one in observed.answers if one.model == model and one.status == 200]
            times, shares = _accuracy(mine, start)
            accuracy.plot(times, shares, color=color, label=f"{name}: right, as callers know")
            for one in observed.estimates:
                if one.model == model:
                    bars = [[one.value - one.low], [one.high - one.value]]
                    accuracy.errorbar(
                        [one.time_s - start],
                        [one.value],
                        yerr=bars,
                        fmt="o",
                        color=color,
                        capsize=4,
                        label=f"{name}: expected without labels",
                    )
        end = max(one.time_s for one in observed.answers) - start
        edges = np.arange(0.0, end + _BIN_S, _BIN_S)
        rates = [
            np.histogram([a.time_s - start for a in observed.answers if a.model == model], edges)[0]
            / _BIN_S
            for model in (old, new)
        ]
        labels = ("the first model", "the next model")
        traffic.stackplot(edges[:-1], *rates, labels=labels, colors=(BLUE, GREEN), step="post")
        traffic.set(xlabel="seconds since the first answer", xlim=(0, end))
        traffic.set_title("Requests a second by the model that answered")
        for model in (old, new):
            _first_alarm(accuracy, [one for one in observed.alarms if one.model == model], start)
        _phases(accuracy, observed.phases, start, end)
        accuracy.set(ylim=(0, 1), ylabel="accuracy")
        accuracy.set_title("From answers back to a better model", pad=34)
        handles, names = accuracy.get_legend_handles_labels()
        once = dict(zip(names, handles, strict=True))
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        accuracy.legend(once.values(), once.keys(), **beside)
        traffic.legend(**beside)
    return to_png(figure)


def _accuracy(mine: Sequence[LabelledResponse], start: float) -> tuple[list[float], list[float]]:
    """Shares of right answers by the seconds of their bins."""
    bins: dict[int, list[bool]] = {}
    for one in mine:
        bins.setdefault(int((one.time_s - start) / _BIN_S), []).append(one.right)
    full = sorted((place, found) for place, found in bins.items() if len(found) >= 20)
    return [(place + 0.5) * _BIN_S for place, _ in full], [sum(f) / len(f) for _, f in full]


def _first_alarm(axes: Axes, alarms: Sequence[Alarm], start: float) -> None:
    raised = [alarm.time_s - start for alarm in alarms if alarm.raised]
    if raised:
        place = axes.get_xaxis_transform()
        axes.axvline(min(raised), color=RED, linewidth=1.2)
        axes.text(min(raised), 0.02, " drift raised", color=RED, transform=place, va="bottom")


def _phases(axes: Axes, phases: Sequence[tuple[float, str]], start: float, end: float) -> None:
    for number, (time_s, name) in enumerate(phases):
        place = time_s - start
        if -5 <= place <= end:
            axes.axvline(max(0.0, place), color="0.5", linestyle="--", linewidth=0.8)
            axes.text(
                max(0.0, place),
                1.01 + 0.05 * (number % 2),
                _SHORT.get(name, name),
                transform=axes.get_xaxis_transform(),
                va="bottom",
            )


if __name__ == "__main__":
    sys.exit(main())
