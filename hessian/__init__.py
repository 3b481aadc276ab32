"""What run_hessian.py measures: extreme eigenvalues of the Hessian's diagonal blocks, and how unevenly they are spread.

blocks.py takes a loss function and tensors. tables.py turns measurements into rows. heterogeneity.py and
tensor_names.py need no torch, so figures can be redrawn without it. Nothing here but flags.py knows a task.
"""
