"""One runner for many runs: finished jobs are kept, crashed ones retried once, in parallel.

Knows nothing of training: a job is a command with a folder. Used by `glue` and `study`.
"""

from rrr_lightning.jobs.locks import Held as Held
from rrr_lightning.jobs.locks import hold as hold
from rrr_lightning.jobs.places import Places as Places
from rrr_lightning.jobs.places import find_places as find_places
from rrr_lightning.jobs.runner import Failure as Failure
from rrr_lightning.jobs.runner import Job as Job
from rrr_lightning.jobs.runner import Outcome as Outcome
from rrr_lightning.jobs.runner import run_jobs as run_jobs
