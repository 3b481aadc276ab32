"""Cases whose numbers are known from elsewhere, and what this project measures on them.

A case is a function that returns rows (`rows.Row`). It trains with the rows of `torch_optimizer` and measures with
`landscape_utils`: what is checked is never written a second time here. `exact`, `stability` and `zipf` take seconds
together, the training runs of the other modules a minute or two. `check_known_cases.py` runs them.
"""
