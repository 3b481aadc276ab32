"""Data that is generated, so that every task runs without a network."""
