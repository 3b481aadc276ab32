"""What run_hessian.py measures: extreme eigenvalues of the Hessian's diagonal blocks, and how unevenly they are spread.

blocks.py takes a loss function and tensors, lanczos.py any symmetric operator. heterogeneity.py and tensor_names.py
need no torch, so figures can be redrawn without it. tables.py turns measurements into rows. Nothing here knows a task.
"""
