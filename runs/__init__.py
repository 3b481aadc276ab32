"""A run on disk and on the command line: flags, folder, tables, checkpoints, lock, resuming."""
