"""Saboteurs, Sybils and slanderers against the node's verification, reputation and trust.

`python -m peerinfer_sim.attacks` prints the figures.
"""
