"""A run's answer in sentences, its tables and figures on one page, from the tables alone: `python report.py FOLDER`."""
