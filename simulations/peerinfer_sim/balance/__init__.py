"""The node's placement in front of many unequal workers that come and go, against the fluid bound.

`python -m peerinfer_sim.balance` prints the figures.
"""
