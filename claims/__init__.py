"""The two papers' claims, checked in the tables of any run folders.

    for check in claims.check(["output/landscape-toy-adam", "output/convergence-toy"]):
        print(check.claim, check.holds, "of", check.of, check.interval, check.exceptions, check.note)

A claim is a sentence (`result.Claim`), compared in many places (`result.Trial`). A `result.Check` counts where
it holds. `landscape`, `convergence` and `heterogeneity` hold the claims about the tables of one script each.
`paper` sets measured ratios beside the paper's own tables. Nothing here needs torch, numpy or matplotlib.
"""

from claims.checks import check
from claims.result import Check, Effect

__all__ = ["Check", "Effect", "check"]
