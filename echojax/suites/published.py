"""Published numbers to compare ours with (``published.toml``), each with its protocol."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

import msgspec

# RecBole rounds times to float32, and orders ties by the rows of the publisher's file.
Order = Literal["exact", "float32 rows", "unknown"]


class Published(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody published about a model on a data set, by leave-one-out and full ranking."""

    dataset: str  # our name of the data set
    label: str  # the model's name there
    seen: Literal["kept", "filtered"]  # how the ranking treats the items of the history
    order: Order  # how events are ordered: by exact times, or as RecBole does
    hr: float  # HR@10
    source: str  # where it was published, and by whom
    ndcg: float | None = None  # NDCG@10, if it is known
    model: str = ""  # our name of the model; "" if we do not have it
    objective: str = ""  # the training objective; "" if it is not known here
    besides: str = ""  # other differences of protocol, such as what it trains on
    differs: str = ""  # other differences from our row, such as the model's size

    @property
    def protocol(self) -> str:
        """Its protocol in words, except for seen items."""
        orders = {"exact": "exact times", "float32 rows": "float32 times by rows"}
        words = [orders.get(self.order, "order not known"), self.objective, self.besides]
        return "; ".join(filter(None, [*words, self.differs]))

    def other_protocol(self, fingerprint: Mapping[str, Any]) -> str:
        """Return how its protocol differs from that of our data, apart from seen items; or ""."""
        order = fingerprint.get("order", {"time_precision": "exact", "ties": "file"})
        rounded = order["time_precision"] == "float32" and not order.get("rows_in_time_order")
        ours = "random" if order["ties"] != "file" else "float32 rows" if rounded else "exact"
        words = ["order not known" if self.order == "unknown" else "order"]
        return "; ".join(filter(None, [*words * (self.order != ours), self.besides]))


def published(dataset: str) -> list[Published]:
    """Return the published numbers on a named data set."""
    text = files("echojax.suites").joinpath("published.toml").read_text(encoding="utf-8")
    known = msgspec.convert(tomllib.loads(text)["published"], list[Published])
    return [one for one in known if one.dataset == dataset]
