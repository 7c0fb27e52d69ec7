"""Comparison of what must be the same on all hosts, before anything depends on it."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax

from echojax.config import Config, as_dict, as_flags, flag
from echojax.errors import UserError
from echojax.hosts import on_main_process
from echojax.multihost import store

# Paths of the data may differ between hosts; the data are compared by checksum.
_LOCAL = ("data_path", "data_dir", "items_path")
_PLACE = ("coordinator", "num_processes", "process_id", "join_seconds")

# Packages that compute, draw numbers or order the data; JAX's plugins are named jax-cuda13-...
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "numpy", "libtpu")
_PLUGINS = ("jax-cuda", "jax-rocm")

# Settings of JAX that change what is computed.
_SETTINGS = (
    "jax_platforms",
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)

# Hosts that are listed by number; of more there is a count.
_LISTED = 4


def agreed_config(given: Config, read: Callable[[], Config]) -> Config:
    """Return the first host's configuration on all hosts, with each host's own paths of the data.

    ``given`` is the configuration of this host's command line. ``read`` is called on the first
    host, which has the run folder of a resumed run. If the hosts differ, it is a ``UserError`` on
    all of them.
    """
    agree("start", _facts(given))
    devices = jax.local_devices()
    agree("devices", {"number of devices": len(devices), "device": devices[0].device_kind})
    values = on_main_process(lambda: as_dict(read()))
    own = {name: value for name in _LOCAL if (value := getattr(given, name)) is not None}
    # The place is not part of the run, which may be resumed elsewhere.
    return Config(**(values | own | dict.fromkeys(_PLACE)))


def agree(topic: str, facts: Mapping[str, Any]) -> None:
    """Compare facts, JSON values by name, with the other hosts'; all hosts must call it.

    If they differ, it is a ``UserError`` on all hosts, which says how. ``topic`` is the name of the
    comparison.
    """
    if store.client() is None:
        return
    of_hosts = [json.loads(text) for text in store.gather(topic, json.dumps(facts))]
    if found := differences(of_hosts):
        raise UserError(f"hosts differ: {', '.join(found)}; make them the same on all hosts")


def differences(facts_of_hosts: list[Mapping[str, Any]]) -> list[str]:
    """Return "NAME is VALUE on host 0 and OTHER on host 1" for each fact that differs."""
    phrases = []
    for name in dict.fromkeys(name for facts in facts_of_hosts for name in facts):
        hosts_by_value: dict[Any, list[int]] = {}
        for host, facts in enumerate(facts_of_hosts):
            hosts_by_value.setdefault(facts.get(name), []).append(host)
        if len(hosts_by_value) > 1:
            values = (
                f"{'not given' if value is None else value} on {_listed(hosts)}"
                for value, hosts in hosts_by_value.items()
            )
            phrases.append(f"{name} is {' and '.join(values)}")
    return phrases


def code_digest() -> str:
    """Return the start of a checksum of the code that runs."""
    digest = hashlib.sha256()
    for package in ("echojax", "selective_scan"):
        root = Path(str(files(package)))
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _facts(given: Config) -> dict[str, Any]:
    """Return flags, versions and settings by name."""
    values = as_flags(given)
    flags = {flag(name): values[name] for name in values if name not in _LOCAL + _PLACE}
    installed = ((str(found.metadata["Name"]).lower(), found.version) for found in distributions())
    return {
        # The path of a file may differ, but a file and a named data set have different defaults.
        "--data-path": "given" if given.data_path else None,
        "--num-processes": store.place()[1],
        **flags,
        "the code of echojax": code_digest(),
        "Python": ".".join(map(str, sys.version_info[:2])),
        **{
            one: version
            for one, version in installed
            if one.startswith(_PLUGINS) or one in _PACKAGES
        },
        **{name.upper(): getattr(jax.config, name) for name in _SETTINGS},
    }


def _listed(hosts: list[int]) -> str:
    shown = ", ".join(map(str, hosts[:_LISTED]))
    more = f" and {len(hosts) - _LISTED} more" if len(hosts) > _LISTED else ""
    return f"host{'s' * (len(hosts) > 1)} {shown}{more}"
