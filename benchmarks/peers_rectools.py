"""Train RecTools' SASRec on a split of echojax; ``peers.py`` runs this where RecTools is installed.

It reads ``split.npz`` and ``settings.json`` of a folder and writes ``theirs.npz``: the vectors of
the test histories and of the items, at the epoch with the best validation NDCG@10.
"""

import copy
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class Validate(Callback):
    """Validates after each epoch, keeps the best parameters, and stops early.

    It stops after ``patience`` epochs without a better NDCG@10.
    """

    def __init__(self, ndcg: Any, patience: int):
        self.ndcg, self.patience = ndcg, patience
        self.best, self.best_epoch = -1.0, 0
        self.parameters: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Score the validation targets."""
        ndcg, epoch = self.ndcg(module.torch_model), trainer.current_epoch + 1
        print(f"epoch {epoch}  valid NDCG@10 {ndcg:.4f}", flush=True)
        if ndcg > self.best:
            self.best, self.best_epoch = ndcg, epoch
            self.parameters = copy.deepcopy(module.torch_model.state_dict())
        trainer.should_stop = epoch - self.best_epoch >= self.patience


def main(folder: Path) -> None:
    """Train, and write the vectors and facts."""
    settings = json.loads((folder / "settings.json").read_text())
    split = dict(np.load(folder / "split.npz"))
    torch.set_num_threads(settings["cores"])
    seed_everything(settings["seed"], workers=True)
    events = pd.DataFrame({Columns.User: split["user_T"], Columns.Item: split["item_T"]})
    events[Columns.Weight] = 1
    # RecTools sorts a user's events by their dates.
    events[Columns.Datetime] = pd.to_datetime(np.arange(len(events)), unit="s")

    def vectors(network: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
        network.eval()
        rows = left_padded(split[f"{part}_ids_BxL"], number_of_V)
        with torch.no_grad():
            items = network.item_model.get_all_embeddings()
            users = network.encode_sessions({"x": torch.as_tensor(rows)}, items)[:, -1]
        network.train()
        return users.numpy(), items.numpy()

    def ndcg(network: Any) -> float:
        users, items = vectors(network, "valid")
        scores = users @ items.T
        scores[:, 0] = -np.inf  # padding
        target_B = number_of_V[split["valid_targets_B"]]
        rank_B = (scores >= scores[np.arange(len(users)), target_B][:, None]).sum(axis=1)
        return float(np.where((rank_B <= 10) & (target_B > 0), 1 / np.log2(1 + rank_B), 0).mean())

    validate = Validate(ndcg, settings["patience"])
    model = SASRecModel(
        n_factors=settings["d_model"],
        n_blocks=settings["layers"],
        n_heads=settings["heads"],
        dropout_rate=settings["dropout"],
        session_max_len=settings["max_len"],
        batch_size=settings["batch_size"],
        lr=settings["learning_rate"],
        loss="softmax",
        get_trainer_func=lambda: Trainer(
            max_epochs=settings["epochs"],
            callbacks=[validate],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    )
    dataset = Dataset.construct(events)
    model.data_preparator.process_dataset_train(dataset)
    number_of_V = numbers(model.data_preparator.item_id_map, int(split["num_items"]))
    began = time.perf_counter()
    model.fit(dataset)
    found = next(one for one in model.fit_trainer.callbacks if isinstance(one, Validate))
    model.torch_model.load_state_dict(found.parameters)
    user_BxD, item_VxD = vectors(model.torch_model, "test")
    np.savez(folder / "theirs.npz", user_BxD=user_BxD, item_VxD=item_VxD, number_of_V=number_of_V)
    facts = {
        "best_epoch": found.best_epoch,
        "valid_ndcg@10": found.best,
        "seconds": time.perf_counter() - began,
        "parameters": sum(one.numel() for one in model.torch_model.parameters()),
        "versions": {name: version(name) for name in ("rectools", "torch", "pytorch-lightning")},
    }
    (folder / "theirs.json").write_text(json.dumps(facts, indent=1))


def numbers(item_id_map: Any, num_items: int) -> np.ndarray:
    """Return the number of each of our items in RecTools, or 0, its padding, if it has none."""
    number_of_V = np.zeros(num_items, np.int64)
    for number, item in enumerate(item_id_map.external_ids):
        if not isinstance(item, str):  # RecTools' name of its padding is a string
            number_of_V[item] = number
    return number_of_V


def left_padded(ids_BxL: np.ndarray, number_of_V: np.ndarray) -> np.ndarray:
    """Return histories in RecTools' numbers, padded on the left, without items that it lacks."""
    rows = np.zeros_like(ids_BxL, np.int64)
    for row, ids in zip(rows, number_of_V[ids_BxL], strict=True):
        known = ids[ids > 0]
        row[len(row) - len(known) :] = known
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))
