"""Lightning callbacks: distillation, and what goes with a measured, reproducible run."""
