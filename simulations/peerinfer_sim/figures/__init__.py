"""Every figure that the project has promised of placement, verification and trust, with plots.

`python -m peerinfer_sim.figures` prints them and writes `simulations/results/seed-N/`.
"""
