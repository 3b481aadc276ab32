"""Data and models: rows of the hub or of files, their encoding, pretrained models."""
