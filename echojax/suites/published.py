"""Published numbers to compare ours with (``published.toml``)."""

import tomllib
from importlib.resources import files

import msgspec


class Published(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody published about a model on a data set.

    Attributes:
        dataset: our name of the data set.
        label: the model's name there.
        hr: HR@10, or the lowest and the highest of several publications.
        ndcg: NDCG@10, likewise.
        model: our name of the model; "" where we have none.
        exclude_seen: whether items of the history are filtered from the ranking.
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
    def protocol(self) -> dict[str, str | bool]:
        """How it was evaluated, in the words of our results."""
        return {"split": "leave-one-out", "ranking": "full", "exclude_seen": self.exclude_seen}

    def differences(self, protocol: dict[str, str | bool]) -> str:
        """Return how it differs from the score it is compared with, evaluated by ``protocol``."""
        words = [
            f"ours: {name} {protocol.get(name)}"
            for name, theirs in self.protocol.items()
            if protocol.get(name) != theirs
        ]
        words += [self.differs] if self.differs else []
        words.append(
            "range over publications" if len(self.hr) > 1 else "one number, without interval"
        )
        return "; ".join(words)


def published(dataset: str) -> list[Published]:
    """Return what is known of a named data set."""
    text = files("echojax.suites").joinpath("published.toml").read_text(encoding="utf-8")
    known = msgspec.convert(tomllib.loads(text)["published"], list[Published])
    return [one for one in known if one.dataset == dataset]
