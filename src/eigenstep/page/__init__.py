"""The explorer: one interactive page over eigenvalues, rules and reports; served locally or written as one file."""

from eigenstep.page.document import export
from eigenstep.page.report import read_report
from eigenstep.page.server import Server

__all__ = ["Server", "export", "read_report"]
