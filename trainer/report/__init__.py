"""The report of a run: what was trained on what, and what the model is worth on clips it never saw.

Pure functions from what a run has saved (``history.jsonl``, ``predictions.jsonl``, the
contract) to ``training_report.md``, ``figures.json`` and the plots in ``assets/``.
"""

from avff.trainer.report.control import metadata_control
from avff.trainer.report.document import Evidence, RunFacts, render
from avff.trainer.report.write import write_report

__all__ = ["Evidence", "RunFacts", "metadata_control", "render", "write_report"]
