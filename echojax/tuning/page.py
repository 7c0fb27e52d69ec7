"""The files that a search writes: the page of its trials, and the best of them as a recipe."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from echojax.config import (
    LIMITS,
    NOT_IN_SUITES,
    OF_TRAINING,
    RESUMABLE,
    Config,
    as_dict,
    as_flags,
    flag,
)
from echojax.errors import escaped
from echojax.files import write_atomically
from echojax.recipes import TRIED
from echojax.report.figures import BLUE, GREY, ORANGE, Picture, drawing_style, new_figure
from echojax.report.pages import render
from echojax.report.tables import Cell, Column, Table, duration
from echojax.tuning.space import Choices, Space, as_words, as_written, set_flags
from echojax.tuning.study import FAILED, STOPPED_EARLY, Trial, best_of

_NOT_TRAINED = RESUMABLE.difference(LIMITS) | NOT_IN_SUITES.keys() | {"model"}
_TRAINED = [name for name in OF_TRAINING if name not in _NOT_TRAINED]
_NOTE = (
    "The score of a trial is its best validation NDCG@10. The search never uses the test set. "
    "A trial is stopped early if others of its generation are better after fewer epochs, so its "
    "score is not that of a complete training."
)


@dataclass(frozen=True)
class Search:
    """What a search has found so far."""

    folder: Path  # of the study
    config: Config  # the flags that are not searched, as they were given
    space: Space  # what is searched
    trials: list[Trial]  # those proposed so far, by number
    wanted: int  # the number of trials of the whole search
    data: str  # the name of the data set
    command: str  # the command that makes the same search; may be empty

    @property
    def best(self) -> Trial | None:
        """The trial with the best score; ``None`` if none has one yet."""
        return best_of(self.trials)

    @property
    def recipe(self) -> Path:
        """The file with the flags of the best trial, for ``--recipe``."""
        return self.folder / "best.toml"

    @property
    def page(self) -> Path:
        """The page of all trials."""
        return self.folder / "page.html"

    @property
    def scored(self) -> list[Trial]:
        """The trials that have a score."""
        return [trial for trial in self.trials if trial.finished and trial.score is not None]

    @property
    def tried(self) -> list[dict[str, Any]]:
        """Flags and scores of the finished trials, as recipes list them."""
        own = self.space.keys() - as_dict(Config()).keys()  # options of the model's own
        return [
            {
                name: float(f"{value:.4g}") if isinstance(value, float) else value
                for name, value in trial.values.items()
                if name not in own
            }
            | ({} if trial.score is None else {"score": round(trial.score, 5)})
            for trial in self.trials
            if trial.finished
        ]

    @property
    def record(self) -> dict[str, Any]:
        """What the results of a run with the best flags record of the search."""
        assert self.best is not None
        return {
            "trials": len(self.trials),
            "failed": self.count(FAILED),
            "epochs": sum(trial.epochs for trial in self.trials),
            "seconds": sum(trial.seconds for trial in self.trials),
            "score": self.best.score,
            "found": self.best.values,
            "space": msgspec.to_builtins(self.space),
            "tried": self.tried,
        }

    @property
    def left(self) -> int:
        """The number of trials that are not finished or not yet proposed."""
        return self.wanted - sum(trial.finished for trial in self.trials)

    def count(self, state: str) -> int:
        """Return how many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)


def write(search: Search) -> None:
    """Write the page and, once a trial has a score, the recipe."""
    if search.best is not None:
        write_atomically(search.recipe, _recipe(search, search.best))
    write_atomically(search.page, _page(search))


def trials_table(search: Search) -> Table:
    """Return the table of all trials, with their values and results."""
    best = search.best
    columns: list[Column | str] = [
        "trial",
        *(Column(name, show=as_written) for name in search.space),
        "NDCG@10",
        "epochs",
        "best",
        Column("time", show=duration),
        Column("", "left"),
    ]
    rows = []
    for trial in search.trials:
        score = None if trial.score is None else f"{trial.score:.4f}"
        ended = trial.ended if trial.state == FAILED else trial.state
        rows.append(
            [
                str(trial.number),
                *(trial.values[name] for name in search.space),
                Cell(score, best=True) if score and trial is best else score,
                trial.epochs if trial.finished else None,
                trial.best_epoch or None,
                trial.seconds if trial.finished else None,
                ended,
            ]
        )
    highlight = str(best.number) if best else None
    return Table(columns, rows, "Trials", highlight=highlight)


def _recipe(search: Search, best: Trial) -> str:
    """Return the flags of a trial as a file of recipes."""
    config, default = as_dict(set_flags(search.config, best.values)), as_dict(Config())
    tried = sum(trial.finished for trial in search.trials)
    lines = [
        f"# Trial {best.number} of {tried}: validation NDCG@10 {best.score:.4f}, in epoch "
        f"{best.best_epoch}.",
        *([f"# {escaped(search.command)}"] if search.command else []),
        "",
        f"[{search.config.model}]",
    ]
    for name in (*_TRAINED, "model_options"):
        if config[name] != default[name]:
            lines.append(f"{name} = {_toml(config[name])}")
    lines += [f"{TRIED} = [", *(f"    {_toml(trial)}," for trial in search.tried), "]"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        given = {name: one for name, one in value.items() if one is not None}
        return f"{{ {', '.join(f'{name} = {_toml(one)}' for name, one in given.items())} }}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _page(search: Search) -> str:
    finished = [trial for trial in search.trials if trial.finished]
    best, failed, stopped = search.best, search.count(FAILED), search.count(STOPPED_EARLY)
    left = f", {search.left} remaining" if search.left else ""
    tiles = [
        ("Trials", str(len(finished)), f"{stopped} stopped early, {failed} failed{left}"),
        ("Epochs", str(sum(trial.epochs for trial in finished)), "of all trials"),
        ("Training time", duration(sum(trial.seconds for trial in finished)), "of all trials"),
    ]
    if best is not None:
        note = f"trial {best.number}, epoch {best.best_epoch}"
        tiles.insert(0, ("Validation NDCG@10", f"{best.score:.4f}", note))
    default = as_flags(Config())
    flags = {
        flag(name): value
        for name, value in as_flags(search.config).items()
        if name not in search.space and value != default.get(name)
    }
    return render(
        "page.html",
        title=f"Search of {search.config.model} on {search.data}",
        subtitle=f"study {search.folder.name} · at most {search.config.epochs} epochs per trial · "
        f"seed {search.config.seed}",
        tiles=tiles,
        pictures=_pictures(search),
        tables=[_knobs_table(search), trials_table(search)],
        notes=[_NOTE],
        facts={
            "Search": {"command": search.command} if search.command else {},
            "Flags that were given": flags,
        },
    )


def _knobs_table(search: Search) -> Table:
    """Return the table of what was searched, with the best values."""
    values = search.best.values if search.best else {}
    rows = [[name, as_words(knob), values.get(name)] for name, knob in search.space.items()]
    columns: list[Column | str] = [
        "flag",
        Column("searched", "left"),
        Column("best", show=as_written),
    ]
    return Table(columns, rows, "Searched flags")


def _pictures(search: Search) -> list[Picture]:
    """Draw the best score by trial, and the score by each flag."""
    if search.best is None:
        return []
    with drawing_style():
        return [
            _best_so_far(search.scored),
            *(_by_knob(place, name, search) for place, name in enumerate(search.space)),
        ]


def _best_so_far(scored: list[Trial]) -> Picture:
    figure, (axes,) = new_figure(3.2)
    numbers, best = [trial.number for trial in scored], list[float]()
    for trial in scored:
        best.append(max(trial.score or 0.0, best[-1] if best else 0.0))
    axes.step(numbers, best, where="post", color=ORANGE)
    _draw_scores(axes, numbers, scored)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("validation NDCG@10")
    return Picture(
        "best-so-far",
        "Best score so far",
        "Each dot is a trial. A hollow dot was stopped early. The line is the best score so far.",
        figure,
    )


def _by_knob(place: int, name: str, search: Search) -> Picture:
    figure, (axes,) = new_figure(3.2)
    knob = search.space[name]
    failed = [trial for trial in search.trials if trial.state == FAILED]

    def x_of(trial: Trial) -> Any:
        value = trial.values[name]
        return knob.choices.index(value) if isinstance(knob, Choices) else value

    if isinstance(knob, Choices):
        labels = [str(one).replace("$", r"\$") for one in knob.choices]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif knob.log:
        axes.set_xscale("log")
    _draw_scores(axes, [x_of(trial) for trial in search.scored], search.scored)
    bottom = axes.get_xaxis_transform()
    marks: dict[str, Any] = {"color": ORANGE, "clip_on": False, "transform": bottom}
    axes.plot([x_of(trial) for trial in failed], [0] * len(failed), "x", **marks)
    axes.set_xlabel(name)
    axes.set_ylabel("validation NDCG@10")
    crosses = " Crosses are trials that failed." if failed else ""
    return Picture(
        f"knob-{place}",
        f"Score by {name}",
        f"Hollow dots are trials that were stopped early.{crosses}",
        figure,
    )


def _draw_scores(axes: Axes, x: list[Any], trials: list[Trial]) -> None:
    for at, trial in zip(x, trials, strict=True):
        stopped = trial.state == STOPPED_EARLY
        (dot,) = axes.plot(
            at, trial.score or 0.0, "o", color=GREY if stopped else BLUE, markersize=6
        )
        if stopped:
            dot.set_markerfacecolor("none")
