"""The method itself, in plain torch: losses on rows, the annealed weight, and the pool of teachers.

Knows neither Lightning nor transformers, and can be used in a hand-written training loop.
"""

from rrr_lightning.distillation.losses import KLDivergence as KLDivergence
from rrr_lightning.distillation.losses import LogitMSE as LogitMSE
from rrr_lightning.distillation.losses import SoftCrossEntropy as SoftCrossEntropy
from rrr_lightning.distillation.pool import TeacherPool as TeacherPool
from rrr_lightning.distillation.schedule import DistillationSchedule as DistillationSchedule
