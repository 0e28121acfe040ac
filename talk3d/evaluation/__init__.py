"""How good an avatar is: metrics against the frames of a dataset, and a report to look at."""

from talk3d.evaluation.report import Measured, Report, write_report
from talk3d.evaluation.run import Options, evaluate

__all__ = ["Measured", "Options", "Report", "evaluate", "write_report"]
