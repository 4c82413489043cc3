"""The lease and the journal, torn at: electors and candidates of one job under faults that a seed decides up front.

    python -m peerinfer_sim.lease [--runs N] [--seed S] [--faults 0,3,5] [--mutant NAME] [--shrink] [--trace]

A run has two phases. While faults are on, nothing wrong may happen (`checks`); once they are off, what is owed must be
delivered in bounded time. `mutants` breaks each guard of the protocol on purpose, and the same checks must notice.
"""
