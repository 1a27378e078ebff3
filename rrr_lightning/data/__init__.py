"""Data modules whose order, views and position are functions of `(seed, epoch or step, index)`."""
