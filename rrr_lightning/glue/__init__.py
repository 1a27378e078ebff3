"""`rrr glue`: fine-tunes a checkpoint on GLUE and reports the scores.

In reading order: `protocol` (settings of every task), `results` (metrics and averages), `plan`
(what an output folder holds, and its runs),
`fine_tune` (one run, in a process of its own), `report`, `compare` (two checkpoints), `submission`
(the benchmark's zip), `run` (the whole command; reads the inputs before any job).
"""
