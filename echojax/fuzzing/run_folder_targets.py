"""The readers of what a run leaves."""

from pathlib import Path

from echojax.fuzzing import examples
from echojax.fuzzing.archive_mutations import mutate_npz
from echojax.fuzzing.json_mutations import mutate_json, mutate_json_lines
from echojax.fuzzing.target import Target
from echojax.report import results_table
from echojax.report.run_record import read_run
from echojax.reproduction.finished import read_finished
from echojax.training.metric_log import MetricLog
from echojax.training.prepared import resolved
from echojax.training.run_folder import read_config, read_items


def run_folder_targets() -> dict[str, Target]:
    """Return the readers of a run folder by name."""
    config, results = ("config.json", examples.CONFIG), ("results.json", examples.RESULTS)

    def whole(folder: Path) -> None:
        record = read_run(folder)
        assert record.best is None or record.best["ndcg@10"] <= 1e300
        if record.results is not None:
            results_table(record.results)

    def log(folder: Path) -> None:
        whole(folder)
        with MetricLog(folder, 4, read_config(folder)) as again:
            again.write({"kind": "train", "step": 5, "epoch": 1.0, "loss": 1.0})

    return {
        "config.json": Target(
            config[0], [config[1]], mutate_json, lambda f: resolved(read_config(f)), share=2
        ),
        "items.json": Target("items.json", [examples.ITEMS], mutate_json, read_items),
        "metrics.jsonl": Target(
            "metrics.jsonl", [examples.METRICS], mutate_json_lines, log, others=(config,)
        ),
        "results.json": Target(
            results[0], [results[1]], mutate_json, whole, share=2, others=(config,)
        ),
        "ranks.npz": Target(
            "ranks.npz", examples.RANKS, mutate_npz, read_finished, others=(results,)
        ),
        "insight.npz": Target(
            "insight.npz", examples.INSIGHT, mutate_npz, read_run, others=(config,)
        ),
    }
