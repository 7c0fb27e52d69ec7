"""The order certificates of a suite's data sets, kept with its runs: pages need no data."""

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from echojax.data import Columns, Preparation, description_of
from echojax.errors import UserError
from echojax.evaluation.order import Certificate, certify
from echojax.files import write_json
from echojax.suites.results import Results
from echojax.suites.runs import Run

FILE = "order.json"
log = logging.getLogger(__name__)


def read_certificates(out: Path) -> dict[str, Certificate]:
    """Return the certificates in a suite's folder by data set."""
    path = out / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Certificate])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be used ({error}); delete it, and it is made again"
        ) from None


def certify_if_missing(results: Results, runs: Sequence[Run]) -> None:
    """Write the certificate of the data that finished runs were made on, unless it exists."""
    finished, _ = results.finished(runs, {})
    if not finished:
        return
    facts = next(iter(finished.values())).results["dataset"]
    config, known = runs[0].config, read_certificates(results.out)
    name = runs[0].dataset
    if name in known and known[name].sha256 == facts["sha256"]:
        return
    try:
        found = description_of(
            config.dataset,
            data_path=config.data_path,
            data_dir=config.data_dir,
            columns=Columns.of(config),
            preparation=Preparation.of(config),
        )
        certificate = certify(found.prepare, found.preparation)
        if certificate.sha256 != facts["sha256"]:
            raise UserError("the data here are not those of the runs")
        known[name] = certificate
    except UserError as error:
        log.info("%s: the page does not say what the order of events decides: %s", name, error)
        return
    write_json(results.out / FILE, msgspec.to_builtins(known))
