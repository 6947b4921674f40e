"""What runs came to: one self-contained HTML page, and tables for the terminal."""

from seekr.report.data import RunData, StageData, find_runs, read_run, read_runs
from seekr.report.page import write_report
from seekr.report.summary import MethodSummary, summarize

__all__ = ["MethodSummary", "RunData", "StageData", "find_runs", "read_run", "read_runs", "summarize", "write_report"]
