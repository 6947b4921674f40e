"""What runs came to: one self-contained HTML page, figures for papers, and tables for the terminal."""

from seekr.report.figures import write_figures as write_figures
from seekr.report.page import write_report as write_report
from seekr.report.summary import summarize as summarize
