"""Measure cases whose numbers are known from elsewhere, and print both side by side.

    python check_known_cases.py           # exact cases: seconds
    python check_known_cases.py --slow    # these and the published training runs: minutes

Everything is computed by this project's own optimizers and measuring code, on the CPU and in float64. The exit status
is 0 if every number is as expected, 1 if one is not, and 2 for a wrong flag.
"""

import runs.start_up  # noqa: F401  an old Python is answered here
from known_cases.flags import make_parser

if __name__ == "__main__":
    make_parser(__doc__ or "").parse_args()  # at once: the imports below take seconds

import sys
from collections.abc import Callable, Sequence

from known_cases.chebyshev import edge_of_stability
from known_cases.exact import edge_rationals, line_search_on_four_modes
from known_cases.peers import other_packages
from known_cases.preconditioned import adaptive_edge_of_stability
from known_cases.rows import COLUMNS, Row
from known_cases.stability import stability_limits
from known_cases.stochastic import edge_of_stochastic_stability
from known_cases.zipf import losses_of_rare_classes
from runs.messages import progress
from runs.tables import format_table

Case = Callable[[], list[Row]]
EXACT: tuple[Case, ...] = (edge_rationals, line_search_on_four_modes, stability_limits, losses_of_rare_classes)
SLOW: tuple[Case, ...] = (edge_of_stability, adaptive_edge_of_stability, edge_of_stochastic_stability, other_packages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print their table. Returns the exit status."""
    flags = make_parser(__doc__ or "").parse_args(arguments)
    cases = EXACT + SLOW if flags.slow else EXACT
    rows = [row for case in progress(cases, desc="known cases", leave=False) for row in case()]
    print(format_table([row.cells() for row in rows], COLUMNS))
    print(verdict(rows))
    return 1 if any(not row.passed for row in rows if not row.skipped) else 0


def verdict(rows: Sequence[Row]) -> str:
    """One sentence: how many rows hold, fail and were skipped."""
    left_out = sum(row.skipped for row in rows)
    wrong = sum(not row.passed for row in rows) - left_out
    run = len(rows) - left_out
    skips = f"; {left_out} skipped" if left_out else ""
    return f"All {run} rows hold{skips}." if not wrong else f"{wrong} of {run} rows do not hold{skips}."


if __name__ == "__main__":
    sys.exit(main())
