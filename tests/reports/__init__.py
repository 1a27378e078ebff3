"""One small test per public report: a situation that people have met, and what we do in it.

Each test names the thread (`repository#number`) and tells the situation in a sentence. How to add
one stands in CONTRIBUTING.md.
"""
