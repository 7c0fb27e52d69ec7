import io

from rich.console import Console

from echojax.evaluation import metric_names
from echojax.reporting import results_table


def printed(results, **console):
    out = io.StringIO()
    Console(file=out, **console).print(results_table(results, console.pop("part", "test")))
    return out.getvalue()


def test_plain_text_is_aligned_and_fits_eighty_columns(results):
    text = printed(results, width=80)
    lines = text.splitlines()
    assert text.isprintable() or text.replace("\n", "").isprintable()  # no control codes
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].split() == ["model", "popularity", "Markov", "optimum"]
    assert len(lines) == 2 + len(metric_names()) + 2
    assert len({len(line.rstrip()) for line in lines[1:]}) == 1


def test_every_score_stands_with_half_its_interval(results):
    text = printed(results, width=80)
    for name in metric_names():
        row = next(line for line in text.splitlines() if line.startswith(name.upper() + " "))
        for one in (results, *results["baselines"].values()):
            low, high = one["test"]["interval"][name]
            assert f"{one['test'][name]:.4f} ±{(high - low) / 2:.4f}" in row


def test_the_part_is_chosen(results):
    out = io.StringIO()
    Console(file=out, width=80).print(results_table(results, "valid"))
    assert out.getvalue().startswith("valid: 40 examples")
    assert f"{results['valid']['ndcg@10']:.4f}" in out.getvalue()


def test_a_terminal_gets_the_same_words(results):
    text = printed(results, width=100, force_terminal=True)
    assert "\x1b[" in text
    assert "Markov" in text
