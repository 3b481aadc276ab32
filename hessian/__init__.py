"""run_hessian.py's wing: the Hessian's diagonal blocks, their extreme eigenvalues, how unevenly they are spread."""
