"""Cases whose numbers are known from elsewhere, beside what this project measures on them.

A case is a function that returns rows (`rows.Row`). It trains with the rows of `torch_optimizer` and measures with
`landscape_utils`: what is checked is never written a second time here. `exact` and `stability` take seconds together;
`slow` names the others. `check_known_cases.py` runs them.
"""
