"""`rrr targets`: what teachers will say in a coming run, stored for any number of students."""
