"""Studies: does distillation make training cheaper, by how much, and how sure is that?

An *arm* is one way to train (an ablation); the first arm of a study is the baseline. In the order
in which a study passes them:

config.py               a study file as dataclasses: arms, durations, seeds, quality, headline
plan.py                 the runs of a study, each a configuration of `rrr fit`; the paired check
advise.py               a few timed steps: hours of a plan, and what distillation has to save
run.py                  the command: runs what has not finished in jobs, then reports
worker.py               the process of a job: several `rrr fit`, and their records
results.py              finished runs, and their cost by cost metric and charge
quality_cost_curve.py   the baseline's curve through its durations
confidence.py           intervals of speed-ups from the pooled variance over seeds
calibration.py          the simulated coverage of these intervals
comparison.py           every arm under every cost metric and charge
report.py               report.json, and report.md made from it
plots.py                the pictures of the report
"""
