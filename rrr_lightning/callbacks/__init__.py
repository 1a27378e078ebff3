"""Lightning callbacks: distillation, and the ledger of what a run costs.

distillation.py      `DistillationCallback`: its life over a run
step.py              one distilled step, as in the paper
teacher_targets.py   the logits of a step: from teachers, or from stored targets
student_input.py     what the student's network was called with, which the teachers get too
splice.py            wraps `training_step`, and catches the student's logits
teacher_loading.py   teachers from specs, matched to the student
teacher_checks.py    tries every teacher on real samples before step 1
resume_checks.py     settings, steps and teachers of a checkpoint against those of the run
run_fingerprint.py   what stored targets depend on
cost_ledger.py       `CostLedger`
profiler.py          seconds by phase, memory, energy, hardware
flop_counter.py      operations of a step
ledger.py            the ledger as JSON
randomness.py        `KeyedRandomness`
"""
