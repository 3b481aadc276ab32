"""run_landscape.py's wing: what is measured at a point of a trajectory, and the tables it goes to."""
