"""`rrr targets`: the teachers' outputs for a coming run, stored for any number of students.

batches.py           the batches of the run, as its steps will get them
plan.py              what the folder will hold, how large, and what it costs
write.py             runs the teachers and writes the shards
command.py           the command
"""
