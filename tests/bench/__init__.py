"""The bench: Garrison beside the best of its kind, in one run, on one machine, as ratios.

`python -m tests.bench` builds the peers, measures, prints the table and writes `.bench/results.json`.
`python -m tests.bench.load` is the load generator by itself: thousands of Defenders in one process.
"""
