"""Figures that a change of structure must leave as they are; `golden.py` makes and compares them."""
