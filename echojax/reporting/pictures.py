"""Which pictures a run has, with titles and captions."""

from typing import NamedTuple

from matplotlib.figure import Figure

from echojax.reporting.drawing import drawing_style, to_svg
from echojax.reporting.influence import draw_directions, draw_influence
from echojax.reporting.learning_curves import draw_loss, draw_validation
from echojax.reporting.mambas import draw_memory, draw_time_steps
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
        return [*_scores(run), *_curves(run), *learned_pictures(run)]


def learned_pictures(run: RunRecord) -> list[Picture]:
    """Draw what the model learned: influence of past events, filters, time steps, memory."""
    with drawing_style():
        return [*_influence(run), *_filters(run), *_mambas(run)]


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


def _influence(run: RunRecord) -> list[Picture]:
    found = run.insight.get("influence", {})
    shown = []
    if "events" in found:
        shown.append(
            _picture(
                "Influence of past events",
                draw_influence(found["events"]),
                "How much the score of the next item changes with the vector of each past event "
                "(input gradient times length), as a share of all of them; mean over a sample of "
                "validation histories. Open marks on the bottom line are exactly 0.",
            )
        )
    if "read/backward" in found:
        shown.append(
            _picture(
                "Influence through each direction",
                draw_directions(found),
                "The same, for gradients that pass through the forward or the backward Mambas "
                "alone. Above, of the events, in front of the filter, which mixes positions; "
                "below, of what the first layer's Mambas read behind it. A direction whose marks "
                "lie on the bottom line has not seen those events: the filter alone carries them.",
            )
        )
    return shown


def _filters(run: RunRecord) -> list[Picture]:
    found = run.insight.get("filter", {})
    if not found:
        return []
    filters = [found[str(layer)] for layer in range(len(found))]
    return [
        _picture(
            "Learned FFT filters",
            draw_responses(filters, run.config["max_len"]),
            "Amplitude of the frequency response before and after training: mean over the "
            "channels, and the range of the middle 80 %. Low frequencies are lasting tastes, high "
            "ones change from event to event. The filter's output is added to its input.",
        ),
        _picture(
            "Learned FFT filters by channel",
            draw_heat_maps(filters),
            "The same amplitudes channel by channel, in the order of their centre frequency "
            "after training; before and after share a scale.",
        ),
    ]


def _mambas(run: RunRecord) -> list[Picture]:
    steps, memories = run.insight.get("time_steps"), run.insight.get("memory")
    if not steps or not memories:
        return []
    return [
        _picture(
            "Time steps",
            draw_time_steps(steps),
            "How far an event moves the states of each channel, over the events of a sample of "
            "validation histories. A step t keeps exp(−t |A|) of a state and takes in the event "
            "by t: short steps remember, long ones replace.",
        ),
        _picture(
            "How long states remember",
            draw_memory(memories, run.config["max_len"]),
            "Share of the states that need at least so many events to decay to 1/e, at their "
            "channel's mean time step; dashed, the slowest state of each channel. Memory left of "
            "1 holds little but the newest event, right of the window it is not used.",
        ),
    ]


def _picture(title: str, figure: Figure, caption: str) -> Picture:
    return Picture(title, to_svg(figure, name=title, description=f"{title}. {caption}"), caption)
