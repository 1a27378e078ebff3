"""Does it pay? Studies of arms, durations and seeds, and their speed-up with an interval."""
