"""A model and its tokenizer, from a saved folder or from the hub."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from tasks.base import Task
from tasks.loading.hub import existing_folder, first_line, hub_refusal, is_local, quiet_libraries

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
log = logging.getLogger(__name__)

PROCESSORS = {
    "AutoTokenizer": ("tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json", "vocab.txt"),
    "AutoImageProcessor": ("preprocessor_config.json", "processor_config.json"),
}


def load_pretrained(
    source: str,
    model_class: str | Callable,
    hf_key: str | None = None,
    seed: int = 0,
    processor_class: str = "AutoTokenizer",
    **options,
):
    """(model, tokenizer or image processor) of a saved folder or hub id; a float32 model on the CPU, in train mode.

    Args:
        model_class: a class of `transformers` by name, or a function from the model's configuration to its class.
        seed: of weights that `source` does not hold, such as a new head; a line of the log names them.
        options: of the model's configuration, such as `num_labels`.
    """
    if local := is_local(source):
        source = _check_folder(existing_folder(source), processor_class)
    import transformers  # takes seconds to import, and toy models need only a part of it

    quiet_libraries()
    access = dict(token=hf_key, trust_remote_code=False)  # neither run a model's own Python code nor ask whether to
    part = "its configuration"
    try:
        config = transformers.AutoConfig.from_pretrained(source, **access, **options)
        part = "its tokenizer" if processor_class == "AutoTokenizer" else "its image processor"
        processor = getattr(transformers, processor_class).from_pretrained(source, **access)
        part = model_class if isinstance(model_class, str) else "a classifier"
        loader = getattr(transformers, model_class) if isinstance(model_class, str) else model_class(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, report = loader.from_pretrained(
                source,
                config=config,
                **access,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # the library raises OSError, ValueError, KeyError, safetensors' own, ...
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"model {source} can only be loaded with Python code of its own, which is never run here; --model "
                f"takes an architecture that transformers {transformers.__version__} knows"
            ) from error
        if local:
            what = f"cannot be loaded as {part}" if not part.startswith("its") else f"cannot be used: {part} is damaged"
            raise ValueError(f"model folder {source} {what}: {first_line(error)}") from error
        raise hub_refusal("model", source, error, "--model FOLDER (a saved model) or --model toy") from error
    new = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    body = [key for key in new if not _is_head(key, model)]
    if body:
        raise ValueError(
            f"the weights of model {source} are those of another model than its config.json describes: {body[0]} and "
            f"{len(body) - 1} more tensors are missing or of another shape; only a head may be new"
        )
    if new:
        log.info("%s has no weights for %s: drawn from seed %d", source, ", ".join(new), seed)
    return model.train(), processor


def _is_head(key: str, model: torch.nn.Module) -> bool:
    """Whether a tensor belongs to the part that is made for a task, and not to the pretrained network."""
    prefix = model.base_model_prefix
    if hasattr(model, prefix):
        return not key.startswith(f"{prefix}.") or ".pooler." in key
    return "head" in key or key.startswith("classifier")


def check_runs_examples(task: Task, source: str) -> None:
    """ValueError naming the model if it cannot run the task's shortest and longest example together: too few positions
    or tokens, no padding, ... Costs one forward pass of the two."""
    training = task.model.training
    task.model.eval()
    try:
        with torch.no_grad():
            task.losses(task.model, task.collate(task.shortest_and_longest()))
    except Exception as error:  # each model has its own
        raise ValueError(
            f"model {source} ({type(task.model).__name__}) cannot run the examples of {task.name}: {first_line(error)}"
        ) from error
    finally:
        task.model.train(training)


def _check_folder(folder: Path, processor_class: str) -> str:
    processor = {"AutoTokenizer": "tokenizer", "AutoImageProcessor": "image processor"}[processor_class]
    needed = (("configuration", ("config.json",)), ("weights", WEIGHTS), (processor, PROCESSORS[processor_class]))
    for what, names in needed:
        if not any((folder / name).is_file() for name in names):
            raise ValueError(f"model folder {folder} holds no {what}; expected {' or '.join(names)} in it")
    return str(folder)
