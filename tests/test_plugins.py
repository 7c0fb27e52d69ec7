"""What a plug-in may register, and what is said where it cannot be used."""

import inspect
import sys
from typing import Literal

import pytest
from flax import nnx

import echojax
from echojax import models
from echojax.config import Config, as_dict
from echojax.data import Preparation, load, sources
from echojax.errors import UserError
from echojax.files import write_json
from echojax.models import CausalModel, SequenceModel, own_options, with_sizes
from echojax.models.base import LayeredModel
from echojax.plugins import load_plugin
from echojax.training.run_folder import read_config

pytestmark = pytest.mark.usefixtures("registries")


class Own(CausalModel):
    """A model."""

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 4,
        rate: float,
        gate: bool = True,
        kind: Literal["a", "b"] = "a",
        limit: int | None = None,
        plain=3,
        activation=nnx.gelu,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=5, rngs=rngs)
        self.given = rate, gate, kind, limit, plain

    def read_all(self, x_BxLxD, lengths_B, *, dropout_keys=None):
        return x_BxLxD


def test_arguments_that_config_does_not_describe_are_the_models_own():
    echojax.register_model("own")(Own)
    assert own_options(Own) == {
        "rate": (float, inspect.Parameter.empty),
        "gate": (bool, True),
        "kind": (Literal["a", "b"], "a"),
        "limit": (int | None, None),
        "plain": (int, 3),
    }
    config = with_sizes(Config(model="own", model_options={"rate": 0.5, "limit": 2}))
    assert config.model_options == {
        "rate": 0.5, "gate": True, "kind": "a", "limit": 2, "plain": 3,
    }  # fmt: skip
    assert config.d_model == 4
    model = models.build_model(config, 7)
    assert model.given == (0.5, True, "a", 2, 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--model own needs --rate"),
        ({"rate": "fast"}, "--rate must be a number, not 'fast'"),
        ({"rate": 1.0, "kind": "c"}, "--kind must be 'a' or 'b', not 'c'"),
        ({"rate": 1.0, "r_min": 0.9}, "--r-min has no meaning for --model own"),
    ],
)
def test_options_are_checked(options, says):
    echojax.register_model("own")(Own)
    with pytest.raises(UserError, match=says):
        with_sizes(Config(model="own", model_options=options))
    with pytest.raises(UserError, match="--rate has no meaning for --model sasrec"):
        with_sizes(Config(model="sasrec", model_options={"rate": 1.0}))


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("own", {"rate": 1.0, "gone": 2}, "--gone has no meaning for --model own; leave it out"),
        ("own", {"gate": False}, "--model own needs --rate; give one"),
        ("own", {"rate": "fast"}, "--rate must be a number, not 'fast'"),
        ("sasrec", {"rate": 1.0}, "--rate has no meaning for --model sasrec; leave it out"),
    ],
)
def test_a_run_of_a_model_that_has_other_options_now_is_refused(model, options, says, tmp_path):
    echojax.register_model("own")(Own)
    write_json(tmp_path / "config.json", as_dict(Config(model=model, model_options=options)))
    with pytest.raises(UserError, match=f"config.json: {says}, or put back what the run was made"):
        read_config(tmp_path)


class NoItems(CausalModel):
    def __init__(self, *, rngs):
        raise AssertionError

    read_all = None


class Taken(CausalModel):
    def __init__(self, num_items, *, recipe: str = "best", rngs):
        raise AssertionError

    read_all = None


class Callback(CausalModel):
    def __init__(self, num_items, activation, *, rngs):
        raise AssertionError

    read_all = None


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        ("sasrec", Own, "'sasrec' is one of echojax's own"),
        ("popularity", Own, "'popularity' is one of echojax's own"),
        ("a/b", Own, "'a/b': a name has letters"),
        ("own", dict, "'own' is no subclass of SequenceModel"),
        ("own", SequenceModel, "'own' has no method 'read_out'"),
        (Own, Own, "a name has letters"),  # @register_model without brackets
        ("own", LayeredModel, "'own' has no method 'embed', as a LayeredModel has"),
        ("own", Taken, "'own': 'recipe' means something else to train"),
        ("own", NoItems, "'own': its constructor has no argument 'num_items'"),
        ("own", Callback, "'own': the argument 'activation' of its constructor has no default"),
    ],
)
def test_what_cannot_be_a_model_is_refused(name, model, says):
    with pytest.raises(UserError, match=says):
        echojax.register_model(name)(model)
    assert "own" not in models.MODELS


def test_other_names_of_echojaxs_own_are_kept():
    for register in (
        lambda: echojax.register_dataset("ml-1m"),
        lambda: echojax.register_loss("bpr"),
        lambda: echojax.register_metric("ndcg@10"),
        lambda: echojax.register_metric("recall"),
    ):
        with pytest.raises(UserError, match="is one of echojax's own"):
            register()


def test_a_data_set_is_a_file_or_a_frame(tmp_path):
    lines = [f"u{user} i{item}" for user in range(3) for item in range(5)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    echojax.register_dataset("of-file")(lambda: tmp_path / "pairs.txt")
    columns = [line.split() for line in lines]
    frame = {"user": [user for user, _ in columns], "item": [item for _, item in columns]}
    echojax.register_dataset("of-frame")(lambda: frame)
    file, memory = (
        load.load_dataset(name, preparation=Preparation(k_core=2))
        for name in ("of-file", "of-frame")
    )
    assert (file.name, memory.name) == ("of-file", "of-frame")
    assert file.items_T.tolist() == memory.items_T.tolist()
    assert file.item_ids.tolist() == memory.item_ids.tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "is no file"),
        ("x = (", r"cannot be imported: SyntaxError"),
        ("import sys; sys.exit('usage')", "cannot be imported: SystemExit: usage"),
        ("import no_such_thing", "cannot be imported: there is no module 'no_such_thing'"),
        (
            "\n1 / 0",
            r"cannot be imported: ZeroDivisionError: division by zero \(.*own.py, line 2\)",
        ),
        ("import echojax\n@echojax.register_model('x')\nclass X: pass", "'x' is no subclass"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_sentence(text, says, tmp_path):
    path = tmp_path / "own.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"--plugin {path}.* {says}"):
        load_plugin(str(path))
    assert "echojax_plugin_own" not in sys.modules


def test_where_the_moved_file_of_a_run_is_to_be_named(tmp_path):
    """No command that reads a run takes --plugin but train, which reads the run first."""
    write_json(tmp_path / "config.json", as_dict(Config(plugin=str(tmp_path.parent / "gone.py"))))
    with pytest.raises(UserError, match=r"named in .*/config\.json, is no file; .* or write there"):
        read_config(tmp_path)


@pytest.mark.parametrize("plugin", ["\0.py", "own\0"])
def test_a_name_that_no_file_can_have_is_one_sentence(plugin):
    with pytest.raises(UserError, match="is no name of a module or a file"):
        load_plugin(plugin)


def test_modules_are_found_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--plugin no_such\.model is no module that can be found"):
        load_plugin("no_such.model")
    (tmp_path / "of_mine").mkdir()
    (tmp_path / "of_mine" / "clicks.py").write_text(
        "import echojax\n@echojax.register_dataset('clicks')\ndef clicks(): pass\n"
    )
    assert load_plugin("of_mine.clicks") == "of_mine.clicks"
    assert "clicks" in sources.DATASETS


@pytest.mark.parametrize("named", ["{}/evil.py", "evil"])
def test_nothing_inside_a_run_folder_is_run(named, tmp_path, monkeypatch):
    """A run folder is data, which may come from somebody else."""
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "config.json", as_dict(Config(plugin=named.format(tmp_path))))
    for folder in (tmp_path, tmp_path / ".." / tmp_path.name):
        with pytest.raises(UserError, match="is inside the run folder, from where nothing is run"):
            read_config(folder)


def test_nothing_beside_a_run_folder_is_run_either(tmp_path, monkeypatch):
    """Whoever packs a run and code into one folder knows no absolute path of it."""
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    write_json(run / "config.json", as_dict(Config(plugin="evil.py")))
    with pytest.raises(UserError, match=r"evil\.py, named in .* is no absolute path"):
        read_config(run)
