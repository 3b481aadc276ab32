"""Which runs of the study are complete."""

from pathlib import Path

from runs.config import CONFIG_FILE, read_config


def is_complete(folder: Path) -> bool:
    """Whether the run folder is there, and its script said that nothing is left to do."""
    return (folder / CONFIG_FILE).exists() and "finished" in read_config(folder)
