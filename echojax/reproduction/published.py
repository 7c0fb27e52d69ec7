"""Published numbers to stand beside ours (``published.toml``)."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Published:
    """What somebody published about a model on a data set.

    Attributes:
        dataset: our name of the data set.
        label: the model's name there.
        hr: HR@10, or the lowest and the highest of several publications.
        ndcg: NDCG@10, likewise.
        model: our name of the model; "" where we have none.
        exclude_seen: whether items of the history are out of the ranking.
        source: where it was published; "" where that is not known here.
        differs: what else its source says that we do otherwise.
    """

    dataset: str
    label: str
    hr: list[float]
    ndcg: list[float]
    model: str = ""
    exclude_seen: bool = False
    source: str = ""
    differs: str = ""

    @property
    def protocol(self) -> dict[str, Any]:
        """How it was judged, in the words of our results."""
        return {"split": "leave-one-out", "ranking": "full", "exclude_seen": self.exclude_seen}


def published(dataset: str) -> list[Published]:
    """Return what is known of a named data set."""
    text = files("echojax.reproduction").joinpath("published.toml").read_text(encoding="utf-8")
    known = (Published(**entry) for entry in tomllib.loads(text)["published"])
    return [one for one in known if one.dataset == dataset]


def differences(one: Published, protocol: dict[str, Any]) -> str:
    """Return how a published number's protocol differs from ours, in words.

    Args:
        one: the published number.
        protocol: of what stands beside it.
    """
    words = [f"ours: {name} {protocol.get(name)}" for name, theirs in one.protocol.items()
             if protocol.get(name) != theirs]  # fmt: skip
    words += [one.differs] if one.differs else []
    words += ["range over publications" if len(one.hr) > 1 else "one number, without interval"]
    return "; ".join(words)
