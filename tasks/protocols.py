"""The defaults of every task: data, model, sizes, epochs, learning rates.

This module needs no torch, so that a command line can be checked at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Defaults:
    """The default protocol of a task. It is the papers' as far as they report one; where it is ours
    or differs, `docs/paper_protocols.json` says so. The defaults here are those of Pan & Li's machine translation.

    Sizes count examples, epochs count from 1. A `dataset_size` of None means all there is.
    """

    dataset: str
    model: str
    dataset_size: int | None = 10_240
    batch_size: int = 1_024  # examples per update
    micro_batch_size: int = 32  # examples per forward pass; bounds memory
    test_batch_size: int = 1_024  # examples of the fixed subset on which everything is measured
    num_epochs: int = 20
    test_epochs: tuple[int, ...] = (2, 5, 10, 20)
    num_sample_sharpness: int = 5  # measured iterations in each test epoch
    algorithm_list: str = "machine_translation"
    learning_rates: dict[str, float] = field(default_factory=lambda: {"sgd": 1e-3, "adam": 1e-4})
    lr_scheduler: str = "constant"  # one of training.SCHEDULERS, in run_convergence.py
    max_grad_norm: float = 0.0  # longer gradients are scaled down to it there; 0: never
    max_length: int | None = 128  # tokens, of the input and of the target each; None: the task has no texts
    windows_per_file: int | None = None  # examples from one file at most, 0: all; None: files are no texts to be cut
    zipf: float | None = None  # exponent of the frequencies in generated data; None: not drawn by rank


ROLES = ("input", "input2", "target")  # what --columns calls the fields of a task

# What every task does where both data and model are "toy": a minute on a laptop.
TOY = Defaults(
    dataset="toy",
    model="toy",
    dataset_size=640,
    batch_size=64,
    test_batch_size=32,
    num_epochs=5,
    test_epochs=(1, 3, 5),
    num_sample_sharpness=2,
    algorithm_list="toy",
    learning_rates={"sgd": 1e-1, "adam": 1e-3},
    zipf=1.0,
)


@dataclass(frozen=True)
class Request:
    """What `load_task` asks a task for: every default filled in. See there for the meaning of each."""

    name: str
    dataset: str
    model: str
    dataset_size: int | None
    max_length: int | None
    seed: int = 0
    model_seed: int = 0
    hf_key: str | None = None
    windows_per_file: int | None = None
    zipf: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # role (input, input2, target) -> column of the data
    split: str | None = None  # of a data set with several, the one to train on; None: "train"
    eval_dataset: str | None = None  # held-out examples, for tasks that have scores

    @property
    def is_own(self) -> bool:
        """Whether the task is named by its kind, for data of one's own, rather than by a paper."""
        return self.name in OWN


# ---- Pan & Li, arXiv:2306.00204 -------------------------------------------------------------------------------------

MACHINE_TRANSLATION = Defaults(
    dataset="Helsinki-NLP/opus_books:en-fr", model="google-t5/t5-small", micro_batch_size=16, max_length=512,
)  # fmt: skip
MASKED_LANGUAGE_MODELING = Defaults(
    dataset="stanfordnlp/imdb", model="distilbert/distilroberta-base", micro_batch_size=8, max_length=512,
    algorithm_list="workshop_masked_language_modeling",
)  # fmt: skip
AUTOREGRESSIVE = Defaults(
    dataset="bigcode/the-stack-smol:data/python", model="flax-community/gpt-neo-125M-code-clippy", dataset_size=10_000,
    micro_batch_size=4, max_length=2048, windows_per_file=1, algorithm_list="autoregressive",
)  # fmt: skip
IMDB = Defaults(
    dataset="stanfordnlp/imdb", model="distilbert/distilbert-base-uncased", micro_batch_size=16, max_length=512,
    algorithm_list="workshop",
)  # fmt: skip
CIFAR = Defaults(
    dataset="uoft-cs/cifar10", model="microsoft/resnet-152", dataset_size=10_000, micro_batch_size=8,
    algorithm_list="workshop", max_length=None,
)  # fmt: skip

# ---- Tomihari & Sato, arXiv:2502.00213 ------------------------------------------------------------------------------


def fine_tuning(dataset: str, batch_size: int = 32, sgd_lr: float = 0.1, adam_lr: float = 1e-5) -> Defaults:
    """Tomihari & Sato's protocol on the whole training split of a hub data set "owner/name:task". Their SGD has
    dampening 0; at the 0.9 of this project's `--train_optimizer sgd` the same step takes ten times their learning rate
    for SGD with momentum."""
    return Defaults(
        dataset=dataset, model="FacebookAI/roberta-base", dataset_size=None, batch_size=batch_size, test_batch_size=256,
        max_length=128, algorithm_list="gradient_heterogeneity/roberta-" + dataset.split(":")[1],
        learning_rates={"sgd": sgd_lr, "adam": adam_lr}, lr_scheduler="linear", max_grad_norm=1.0,
    )  # fmt: skip


FLOWERS = Defaults(
    dataset="dpdl-benchmark/oxford_flowers102", model="microsoft/resnet-18", dataset_size=None, batch_size=32,
    test_batch_size=256, num_epochs=50, test_epochs=(2, 5, 10, 20, 50),
    algorithm_list="gradient_heterogeneity/resnet18-flowers", learning_rates={"sgd": 0.1, "adam": 1e-4},
    lr_scheduler="epoch_warmup", max_grad_norm=1.0, max_length=None,
)  # fmt: skip
AIRCRAFT = replace(
    FLOWERS, dataset="Donghyun99/FGVC-Aircraft", num_epochs=100, test_epochs=(2, 5, 10, 20, 50, 100),
    algorithm_list="gradient_heterogeneity/resnet18-aircraft",
)  # fmt: skip

# ---- by task --------------------------------------------------------------------------------------------------------

PAPERS = {
    "machine_translation": MACHINE_TRANSLATION,
    "masked_language_modeling": MASKED_LANGUAGE_MODELING,
    "autoregressive": AUTOREGRESSIVE,
    "binary_classification": IMDB,
    "glue/rte": fine_tuning("aps/super_glue:rte", batch_size=8, sgd_lr=0.01),  # the same pairs as GLUE's; theirs
    "glue/cola": fine_tuning("nyu-mll/glue:cola", sgd_lr=0.01),
    "glue/sst2": fine_tuning("nyu-mll/glue:sst2"),
    "glue/mrpc": fine_tuning("nyu-mll/glue:mrpc"),
    "super_glue/cb": fine_tuning("aps/super_glue:cb", batch_size=8, adam_lr=1e-4),
    "super_glue/wic": fine_tuning("aps/super_glue:wic", sgd_lr=0.01),
    "super_glue/boolq": fine_tuning("aps/super_glue:boolq"),
    "image_classification": CIFAR,
    "flowers102": FLOWERS,
    "aircraft": AIRCRAFT,
}

# The same for generated data and a new small model; a kind of task that is not named here follows TOY itself.
TOY_TEXTS = replace(TOY, max_length=64, algorithm_list="toy_other", zipf=0.0)
TOY_MASKS = replace(TOY, max_length=32, algorithm_list="toy_other", zipf=None)
TOY_PROGRAMS = replace(TOY, max_length=32, windows_per_file=0, algorithm_list="toy_other", zipf=None)
TOY_PICTURES = replace(TOY, algorithm_list="toy_other", max_length=None, zipf=0.0)

# ---- one's own data -------------------------------------------------------------------------------------------------

# Kinds of tasks, for data of one's own; no paper's protocol. With fewer rows than dataset_size, all there are.
OWN = {
    "translation": replace(TOY, zipf=None),
    "causal_language_modeling": replace(TOY_PROGRAMS, windows_per_file=1),
    "text_classification": replace(TOY_TEXTS, zipf=None),
    "text_pair_classification": replace(TOY_TEXTS, zipf=None),
}
OWN = {
    name: replace(
        defaults, dataset_size=5_120, batch_size=256, test_batch_size=256, num_epochs=10, test_epochs=(1, 5, 10),
        max_length=128, algorithm_list="machine_translation",
    )
    for name, defaults in OWN.items()
}  # fmt: skip
