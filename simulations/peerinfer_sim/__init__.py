"""The laboratory: whole swarms in one process, under a virtual clock, from a seed. Never shipped.

Two floors stand on the same machines. *Whole nodes* (`whole`) runs the real node over simulated ports; *discrete*
(`discrete`) drives bare machines from a heap of timed events, for thousands of them. Both write every step into an
`EventLog` and let `Watch` look at it; a scenario is a file in `simulations/scenarios`.
"""
