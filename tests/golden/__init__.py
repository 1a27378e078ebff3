"""Figures that a change of structure leaves as they are; `golden.py` makes and compares them."""
