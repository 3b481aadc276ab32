"""What is measured at one point of a training run, and the probe that measures it in a loop of one's own."""
