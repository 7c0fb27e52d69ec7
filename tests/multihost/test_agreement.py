"""What must be alike on all hosts, with the other hosts' part made up here."""

import io
import json

import pytest
from rich.console import Console

from echojax.config import Config
from echojax.errors import UserError
from echojax.multihost import agreement, store
from echojax.training.run import run


@pytest.fixture
def other_host(monkeypatch):
    """Return what host 1 of two has otherwise than this one, by name: a dict to fill."""
    otherwise = {}

    def gather(topic, text):
        facts = json.loads(text)
        return [text, json.dumps(facts | {k: v for k, v in otherwise.items() if k in facts})]

    monkeypatch.setattr(store, "client", object)
    monkeypatch.setattr(store, "place", lambda: (0, 2))
    monkeypatch.setattr(store, "gather", gather)
    return otherwise


def agreed(given, stored=None):
    return agreement.agreed_config(given, lambda: stored or given)


def test_hosts_that_are_alike_agree(other_host):
    assert agreed(Config(epochs=3)) == Config(epochs=3)


def test_what_differs_is_named_with_its_values(other_host):
    other_host |= {"--learning-rate": 0.05, "--d-model": 32}
    with pytest.raises(UserError) as caught:
        agreed(Config(learning_rate=0.01))
    assert str(caught.value) == (
        "hosts differ: --d-model is not given on host 0 and 32 on host 1, --learning-rate is 0.01 "
        "on host 0 and 0.05 on host 1; make them the same on all hosts"
    )


def test_any_difference_is_refused(other_host):
    names = [
        "--seed", "--epochs", "--batch-size", "--model", "--run-dir", "--resume", "--num-processes",
        "--data-path", "the code of echojax", "Python", "jaxlib", "flax", "JAX_ENABLE_X64",
    ]  # fmt: skip
    other_host |= dict.fromkeys(names, "other")
    with pytest.raises(UserError) as caught:
        agreed(Config())
    assert not [name for name in names if f"{name} is " not in str(caught.value)]


@pytest.mark.parametrize(("fact", "value"), [("number of devices", 8), ("device", "another")])
def test_other_devices_are_refused(other_host, fact, value):
    other_host[fact] = value
    with pytest.raises(UserError, match=rf"differ: {fact} is \w+ on host 0 and {value} on host 1;"):
        agreed(Config())


def test_each_host_may_have_the_data_where_it_likes(other_host):
    here = {"data_path": "/here/ring.inter", "data_dir": "/here", "items_path": "/here/ring.item"}
    given = Config(**here, coordinator="a:1", process_id=0)
    other_host |= {"--data-dir": "/there", "--items-path": "/there/ring.item"}
    other_host |= {"--coordinator": "b:1", "--process-id": 1}
    assert agreed(given) == Config(**here)


def test_a_resumed_run_is_what_the_first_hosts_folder_says(other_host):
    given = Config(resume=True, run_dir="run", data_path="/mine")
    stored = Config(resume=True, run_dir="run", data_path="/theirs", d_model=8, coordinator="a:1")
    assert agreed(given, stored) == Config(
        resume=True, run_dir="run", data_path="/mine", d_model=8
    )  # fmt: skip


def test_a_run_compares_the_data_before_it_makes_a_folder(other_host, tmp_path):
    file, folder = tmp_path / "ring.inter", tmp_path / "run"
    rows = "".join(f"u{u}\ti{i}\t{i}\n" for u in range(6) for i in range(6))
    file.write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{rows}")
    other_host["sha256 of the data"] = "other"
    with pytest.raises(UserError, match=r"^hosts differ: sha256 of the data is .* other on host 1"):
        run(Config(data_path=str(file), run_dir=str(folder)), Console(file=io.StringIO()))
    assert not folder.exists()


def test_many_hosts_are_counted():
    facts = [{"--seed": int(host > 0)} for host in range(9)]
    assert agreement.differences(facts) == [
        "--seed is 0 on host 0 and 1 on hosts 1, 2, 3, 4 and 4 more"
    ]


def test_what_one_host_alone_knows_is_a_difference():
    facts = [{}, {"libtpu": "0.1"}]
    for of_hosts in (facts, facts[::-1]):
        assert [line.split(" is ")[0] for line in agreement.differences(of_hosts)] == ["libtpu"]


def test_one_process_compares_nothing():
    agreement.agree("data", {"sha256": "0"})


def test_code_has_a_digest_of_all_its_files(tmp_path, monkeypatch):
    before = agreement.code_digest()
    for package in ("echojax", "selective_scan"):
        (tmp_path / package / "deep").mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.setattr(agreement, "files", lambda name: tmp_path / name)
    empty = agreement.code_digest()
    (new := tmp_path / "selective_scan" / "deep" / "new.py").touch()
    more = agreement.code_digest()
    new.write_text("x = 1\n")
    assert len({before, empty, more, agreement.code_digest()}) == 4
