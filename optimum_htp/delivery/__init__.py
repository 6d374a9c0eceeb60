"""Many models, and where they are to run: batches of exports, pushes to a Hub, folders that endpoints serve."""

from optimum_htp.delivery.batch import JOURNAL, run_batch
from optimum_htp.delivery.jobs import Job
from optimum_htp.delivery.work import Outcome

__all__ = ["JOURNAL", "Job", "Outcome", "run_batch"]
