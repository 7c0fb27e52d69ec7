"""What a run leaves for people: a table on the terminal and a page with pictures."""

from echojax.reporting.report import write_report
from echojax.reporting.table import results_table

__all__ = ["results_table", "write_report"]
