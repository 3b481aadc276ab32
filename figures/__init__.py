"""Every figure, drawn from the tables of a run folder alone: `python -m figures FOLDER`."""
