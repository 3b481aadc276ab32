"""Where fine-tuning starts: an encoder of the study's own or of the hub, and its fresh copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

FRESH_COPY = "fresh_encoder"  # folder of the study
Model = Callable[[Path], str]  # folder of the study -> --model
Starts = Mapping[str, Model]


def toy(study: Path) -> str:
    return "toy"


def starts(pretrained: Model) -> Starts:
    """The encoder, and its `fresh_copy`, which is written when the first run asks for it."""
    return {"pretrained": pretrained, "fresh": lambda study: str(fresh_copy(pretrained(study), study))}


def of_run(run: str) -> Starts:
    """From the one model that this run of the study saved."""

    def kept(study: Path) -> str:
        (folder,) = sorted((study / run / "model").iterdir())
        return str(folder)

    return starts(kept)


def of_hub(encoder: str) -> Starts:
    """From the weights of `encoder`, a name of the hub or a folder."""
    return starts(lambda study: encoder)


def fresh_copy(encoder: str, study: Path, seed: int = 0) -> Path:
    """Write the architecture and the tokenizer of `encoder` with weights drawn from `seed` into the study.

    A toy model that was drawn from the same seed had these weights before it was trained.

    Returns: the folder, which stays as it is where it is there already.
    Raises: ValueError, in one line, if the encoder cannot be had."""
    folder, unfinished = study / FRESH_COPY, study / f".{FRESH_COPY}.tmp"
    if not folder.exists():
        from tasks import load_task  # imports torch, in seconds
        from tasks.architectures import fresh_model

        task = load_task("masked_language_modeling", model=encoder, dataset="toy", dataset_size=1)
        task.model = fresh_model(type(task.model), task.model.config, seed)
        task.save_model(unfinished)
        unfinished.rename(folder)
    return folder
