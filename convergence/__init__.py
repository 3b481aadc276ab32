"""run_convergence.py's wing: one training run, its journal, the search for learning rates."""
