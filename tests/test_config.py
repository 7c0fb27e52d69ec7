"""What is known about a field stands at the field, and is all that is needed to check it."""

import re
from dataclasses import replace

import pytest

from echojax import config as module
from echojax.commands.train import read_command_line
from echojax.config import (
    KINDS,
    MODEL_SIZES,
    NOT_IN_SUITES,
    QUICKSTART,
    RESUMABLE,
    Config,
    as_dict,
    check,
    misfit,
    with_fields,
)
from echojax.data import DATASETS
from echojax.data.layouts import COLUMNAR, FORMATS
from echojax.files import write_json
from echojax.flags import SECTIONS
from echojax.models import HEURISTICS, MODELS
from tests.conftest import refused


def test_facts_are_found_inside_unions_too():
    assert {"d_model", "dropout", "mask_rate"} <= MODEL_SIZES
    assert "max_len" not in MODEL_SIZES
    assert {"data_path", "epochs", "item_shards", "max_steps"} <= RESUMABLE
    assert not RESUMABLE & {"seed", "batch_size", "k_core", "ties", *MODEL_SIZES}
    assert NOT_IN_SUITES["seed"] == NOT_IN_SUITES["seeds"] == "list the seeds under `seeds`"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, not 0"),
        ({"seed": 2**32}, "--seed must be below 4294967296, not 4294967296"),
        ({"seed": 2**32 - 1, "seeds": 2}, "--seeds 2: seeds end at 4294967295"),
        ({"d_model": 0}, "--d-model must be at least 1, not 0"),
        ({"d_model": 10**8}, "--d-model must be at most 1048576, not 100000000"),
        ({"decay_steps": 0}, "--decay-steps must be at least 1"),
        ({"warmup_steps": -1}, "--warmup-steps must be at least 0"),
        ({"dropout": 1.0}, "--dropout must be at least 0 and below 1, not 1.0"),
        ({"weight_decay": 1.0}, "--weight-decay must be at least 0 and below 1"),
        ({"mask_rate": 0.0}, "--mask-rate must be above 0 and below 1"),
        ({"clip_norm": 0.0}, "--clip-norm must be above 0 and finite, not 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be above 0 and finite, not nan"),
        ({"learning_rate": float("inf")}, "--learning-rate must be above 0 and finite, not inf"),
        ({"loss": "gbce", "gbce_t": 2.0}, "--gbce-t must be between 0 and 1, not 2.0"),
        ({"warmup": 0.1, "warmup_steps": 3}, "--warmup and --warmup-steps say the same; leave"),
        ({"schedule": "cosine", "decay_steps": 3}, "--schedule cosine and --decay-steps exclude"),
        ({"parallel": "pmap", "item_shards": 2}, "--parallel pmap spreads rows only"),
    ],
)
def test_values_that_no_run_can_have_are_refused(wrong, says):
    check(Config())
    with refused(says):
        check(Config(**wrong))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("d_model", 8.5, "must be a whole number, not 8.5"),
        ("d_model", None, None),
        ("dropout", 1, None),
        ("learning_rate", True, "must be a number, not True"),
        ("filter", 0, "must be true or false, not 0"),
        ("negative_sampling", "odd", "must be 'uniform' or 'popularity' or 'in-batch', not 'odd'"),
    ],
)
def test_values_of_another_kind_are_named(name, value, says):
    assert misfit(KINDS[name], value) == says


def test_without_data_it_is_the_quickstart():
    assert read_command_line([]) == QUICKSTART != Config()
    assert read_command_line(["--dataset", "ml-1m"]) == Config(dataset="ml-1m")
    for words in (["--data_path", "log.csv"], ["--data_path=log.csv"]):
        assert read_command_line(words) == Config(data_path="log.csv")


def test_help_shows_the_defaults_and_what_is_known(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        read_command_line(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Adam's learning rate. (default: 0.001)" in text
    assert "Number of layers. (default: None)" in text
    for section in SECTIONS:
        assert section.__doc__ in text
    assert module.Config.__doc__.splitlines()[0] in text
    for known in (MODELS, HEURISTICS, DATASETS, FORMATS.keys() - COLUMNAR.values()):
        assert all(re.search(rf"\b{name}[,;.]", text) for name in known)


def test_flags_come_from_a_file_too(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('dataset = "ml-1m"\nmax-len = 20\nlearning_rate = 1\nfilter = false\n')
    config = read_command_line(["--config", str(file), "--max-len", "30"])
    assert config == Config(dataset="ml-1m", max_len=30, learning_rate=1.0, filter=False)
    write_json(tmp_path / "config.json", as_dict(config))
    again = ["--config", str(tmp_path / "config.json"), "--no-backward"]
    assert read_command_line(again) == replace(config, backward=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "--config {file}: no such file"),
        ("epochs = ", "--config {file} cannot be read as TOML: "),
        ("epocsh = 3", "unknown flag in {file} 'epocsh'; did you mean 'epochs'?"),
        ('run_dir = ""', "{file}: run_dir has an empty value; give one, or leave it out"),
        ('epochs = "3"', "{file}: epochs must be a whole number, not '3'"),
        ("[model]\nd_model = 8", "{file}: model must be a string, not {{'d_model': 8}}"),
    ],
)
def test_what_a_file_of_flags_cannot_say_is_one_line(text, says, tmp_path):
    file = tmp_path / "run.toml"
    if text is not None:
        file.write_text(text)
    with refused(says.format(file=file)):
        read_command_line(["--config", str(file)])


def test_a_recipe_is_below_flags_and_file(tmp_path):
    words = ["--dataset", "ml-1m", "--model", "gru4rec", "--recipe", "best"]
    assert read_command_line(words) == Config(
        dataset="ml-1m", model="gru4rec", warmup_steps=100, eval_every=5, learning_rate=5e-3,
        epochs=80, decay_steps=5340,
    )  # fmt: skip
    (tmp_path / "run.toml").write_text("epochs = 7\neval_every = 2\n")
    config = read_command_line([*words, "--config", str(tmp_path / "run.toml"), "--epochs", "9"])
    assert (config.epochs, config.eval_every, config.warmup_steps) == (9, 2, 100)


def test_options_of_a_model_that_are_not_given_stay():
    config = Config(model="own", model_options={"rate": 0.5, "kind": "b"})
    changed = with_fields(config, {"epochs": 3, "model_options": {"rate": 0.1}})
    assert changed == replace(config, epochs=3, model_options={"rate": 0.1, "kind": "b"})
    assert with_fields(config, {}) == config
