"""Reading as units of work: each has a key that says what goes into it, and is written once, whole or not at all.

Nothing depends on who does a unit or when, so a run can be killed at any moment and gone on with by any number of
workers, on one machine (``run_units``) or on a cluster (``kaiyuan.corpus.cluster``), and ends with the same bytes.
"""

from kaiyuan.corpus.work.runner import run_units
from kaiyuan.corpus.work.store import Counts, Store, Totals
from kaiyuan.corpus.work.units import UNIT_BYTES, Unit, plan

__all__ = ["UNIT_BYTES", "Counts", "Store", "Totals", "Unit", "plan", "run_units"]
