"""A model and its tokenizer, from a saved folder or from the hub."""

from pathlib import Path

import torch

from tasks.hub import first_line, hub_refusal, is_local, quiet_libraries

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json", "vocab.txt")


def load_pretrained(source: str, auto_class: str, hf_key: str | None = None):
    """(model, tokenizer) of a saved folder or hub id; the model is float32, on the CPU, in train mode.

    `auto_class` names the kind of model: a class of `transformers`, such as "AutoModelForSeq2SeqLM".
    """
    if local := is_local(source):
        source = _check_folder(Path(source).expanduser())
    import transformers  # takes seconds to import, and toy models need only a part of it

    quiet_libraries()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, token=hf_key)
        model = getattr(transformers, auto_class).from_pretrained(source, token=hf_key, dtype=torch.float32)
    except Exception as error:  # the library raises OSError, ValueError, KeyError, safetensors' own, ...
        if local:
            raise ValueError(
                f"model folder {source} cannot be loaded as {auto_class}: {first_line(error)}"
            ) from error
        raise hub_refusal("model", source, error, "--model FOLDER (a saved model) or --model toy") from error
    return model.train(), tokenizer


def _check_folder(folder: Path) -> str:
    if not folder.is_dir():
        raise ValueError(
            f"no such model folder: {folder}; --model takes a saved model's folder, a hub id, or toy"
        )
    for what, names in (("configuration", ("config.json",)), ("weights", WEIGHTS), ("tokenizer", TOKENIZERS)):
        if not any((folder / name).is_file() for name in names):
            raise ValueError(f"model folder {folder} holds no {what}; expected {' or '.join(names)} in it")
    return str(folder)
