"""Train RecBole's SASRec on a split of echojax; ``peers.py`` runs this where RecBole is installed.

It reads ``split.npz`` and ``settings.json`` of a folder and writes ``theirs.npz``: the vectors of
the test histories and of the items, at the epoch with the best validation NDCG@10.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed


def main(folder: Path) -> None:
    """Train, and write the vectors and facts."""
    settings = json.loads((folder / "settings.json").read_text())
    split = dict(np.load(folder / "split.npz"))
    torch.set_num_threads(settings["cores"])
    write_events(folder / "data" / "events" / "events.inter", split)
    config = Config("SASRec", "events", config_dict=options(folder, settings))
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    model = get_model("SASRec")(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    began = time.perf_counter()
    best_ndcg, _ = trainer.fit(train, valid)
    seconds = time.perf_counter() - began
    # The file has Python objects beside the weights; this process wrote it.
    saved = torch.load(trainer.saved_model_file, weights_only=False)
    model.load_state_dict(saved["state_dict"])
    model.eval()
    number_of_V = numbers(dataset.field2token_id["item_id"], int(split["num_items"]))
    ids_BxL = number_of_V[split["test_ids_BxL"]]
    with torch.no_grad():
        length_B = (ids_BxL > 0).sum(axis=1)
        user_BxD = model.forward(torch.as_tensor(ids_BxL), torch.as_tensor(length_B)).numpy()
    item_VxD = model.item_embedding.weight.detach().numpy()
    np.savez(folder / "theirs.npz", user_BxD=user_BxD, item_VxD=item_VxD, number_of_V=number_of_V)
    facts = {
        "best_epoch": saved["epoch"] + 1,
        "valid_ndcg@10": float(best_ndcg),
        "seconds": seconds,
        "parameters": sum(one.numel() for one in model.parameters()),
        "versions": {name: version(name) for name in ("recbole", "torch", "numpy")},
    }
    (folder / "theirs.json").write_text(json.dumps(facts, indent=1))


def options(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return RecBole's configuration; its batches are of prefixes, its layers as wide as ours."""
    return {
        "data_path": str(folder / "data"),
        "checkpoint_dir": str(folder / "saved"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "train_neg_sample_args": None,  # the loss is over all items
        "MAX_ITEM_LIST_LENGTH": settings["max_len"],
        "hidden_size": settings["d_model"],
        "inner_size": 4 * settings["d_model"],
        "n_layers": settings["layers"],
        "n_heads": settings["heads"],
        "hidden_dropout_prob": settings["dropout"],
        "attn_dropout_prob": settings["dropout"],
        "learning_rate": settings["learning_rate"],
        "epochs": settings["epochs"],
        "stopping_step": settings["patience"],
        "train_batch_size": settings["batch_size"],
        "valid_metric": "NDCG@10",
        "seed": settings["seed"],
        "use_gpu": False,
        "show_progress": False,
    }


def write_events(path: Path, split: dict[str, np.ndarray]) -> None:
    """Write all events of the users who have test targets, with their places as times.

    RecBole itself leaves each user's last two events out of training.
    """
    events: dict[int, list[int]] = {user: [] for user in split["test_users_B"].tolist()}
    for user, item in zip(split["user_T"].tolist(), split["item_T"].tolist(), strict=True):
        if user in events:
            events[user].append(item)
    for part in ("valid", "test"):
        users, targets = split[f"{part}_users_B"].tolist(), split[f"{part}_targets_B"].tolist()
        for user, item in zip(users, targets, strict=True):
            events[user].append(item)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in events.items():
            file.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))


def numbers(token_ids: dict[str, int], num_items: int) -> np.ndarray:
    """Return the number of each of our items in RecBole, or 0, its padding, if it has none."""
    number_of_V = np.zeros(num_items, np.int64)
    for token, number in token_ids.items():
        if number:
            number_of_V[int(token)] = number
    return number_of_V


if __name__ == "__main__":
    main(Path(sys.argv[1]))
