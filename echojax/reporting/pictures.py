"""Which pictures a run has, with titles and captions."""

from typing import NamedTuple

from matplotlib.figure import Figure

from echojax.reporting.drawing import drawing_style, to_svg
from echojax.reporting.learning_curves import draw_loss, draw_validation
from echojax.reporting.run_record import RunRecord, systems_of
from echojax.reporting.scores import draw_by_length, draw_systems
from echojax.reporting.spectra import draw_heat_maps, draw_responses


class Picture(NamedTuple):
    """A picture with the words around it."""

    title: str
    svg: str
    caption: str


def pictures(run: RunRecord) -> list[Picture]:
    """Draw what the run has so far; what is not there yet is left out."""
    with drawing_style():
        return [*_scores(run), *_curves(run), *_filters(run)]


def _scores(run: RunRecord) -> list[Picture]:
    if run.results is None:
        return []
    systems = systems_of(run.results, "test")
    return [
        _picture(
            "Score against the baselines",
            draw_systems(systems),
            "Test scores with 95 % bootstrap intervals over users. Popularity recommends the most "
            "frequent items, Markov what most often followed the last item in training"
            + ("; no predictor can beat the optimum." if "optimum" in systems else "."),
        ),
        _picture(
            "Score by length of the history",
            draw_by_length(run.results["test"]["by_length"]),
            "Test scores with 95 % intervals; below each range stands its number of examples.",
        ),
    ]


def _curves(run: RunRecord) -> list[Picture]:
    curves = []
    if run.train:
        curves.append(
            _picture("Training loss", draw_loss(run.train), "Mean over the epoch so far.")
        )
    if run.best is not None:
        curves.append(
            _picture(
                "Validation",
                draw_validation(run.valid, run.best),
                f"Epoch {run.best['epoch']}, marked, has the best NDCG@10; its scores stand in "
                "brackets.",
            )
        )
    return curves


def _filters(run: RunRecord) -> list[Picture]:
    if not run.filters:
        return []
    return [
        _picture(
            "Learned FFT filters",
            draw_responses(run.filters, run.config["max_len"]),
            "Amplitude of the frequency response before and after training: mean over the "
            "channels, and the range of the middle 80 %. Low frequencies are lasting tastes, high "
            "ones change from event to event. The filter's output is added to its input.",
        ),
        _picture(
            "Learned FFT filters by channel",
            draw_heat_maps(run.filters),
            "The same amplitudes channel by channel, in the order of their centre frequency "
            "after training; before and after share a scale.",
        ),
    ]


def _picture(title: str, figure: Figure, caption: str) -> Picture:
    return Picture(title, to_svg(figure, name=title, description=f"{title}. {caption}"), caption)
