"""The one training loop that all scripts drive, and the learning-rate schedules."""
