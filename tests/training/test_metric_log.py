import json

from echojax.config import Config
from echojax.training.progress import MetricLog


def test_resume_takes_newer_and_broken_lines_back(tmp_path):
    log = MetricLog(tmp_path, 0, Config())
    for step in (1, 2, 3):
        log.write({"kind": "train", "step": step, "loss": 1.0})
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    log = MetricLog(tmp_path, 2, Config())
    log.write({"kind": "valid", "step": 2, "hr@10": 0.5})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 1),
        ("train", 2),
        ("valid", 2),
    ]


def test_bytes_of_a_crash_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"kind": "train", "step": 1}\n\xff\x00\xfe\n')
    MetricLog(tmp_path, 5, Config()).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"kind": "train", "step": 1}\n'
