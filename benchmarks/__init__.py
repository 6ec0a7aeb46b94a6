"""What this package costs, beside its peers on the same work: `make bench`.

A benchmark is an object with a `name`, a `title` and `measure(settings, done)`, which returns a `Report`;
`catalogue.py` lists them. Ratios are measured, over interleaved rounds: absolute times mean nothing
on a machine that others use too.
"""
