"""A label for a picture: CIFAR-10 (Pan & Li), Flowers102 and FGVC-Aircraft (Tomihari & Sato).

Rows are {"image" or "img": picture as `datasets` stores it, "label"}. They stay encoded until a batch wants them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tasks.architectures import fresh_model
from tasks.base import TOY, Defaults, Request
from tasks.classification import Classification, official_test, partition, rows_for
from tasks.loading.hub import first_line, is_local, quiet_libraries
from tasks.loading.pretrained import load_pretrained
from tasks.loading.rows import Refused, explained, load_splits, require_label
from tasks.toy.labeled import pictures


@dataclass(frozen=True)
class Spec:
    """What distinguishes one of these tasks from the others."""

    evaluation_share: float
    augmented: bool  # random crop and flip in training
    rotation: float = 0.0  # and turned by up to so many degrees, either way


SPECS = {
    "image_classification": Spec(evaluation_share=0.1, augmented=False),
    "flowers102": Spec(evaluation_share=0.2, augmented=True, rotation=45.0),
    "aircraft": Spec(evaluation_share=0.2, augmented=True),
}

CIFAR = Defaults(
    dataset="uoft-cs/cifar10", model="microsoft/resnet-152", dataset_size=10_000, micro_batch_size=8,
    algorithm_list="workshop",
)  # fmt: skip
FLOWERS = Defaults(
    dataset="dpdl-benchmark/oxford_flowers102", model="microsoft/resnet-18", dataset_size=None, batch_size=32,
    test_batch_size=256, num_epochs=50, test_epochs=(2, 5, 10, 20, 50),
    algorithm_list="gradient_heterogeneity/resnet18-flowers", learning_rates={"sgd": 0.1, "adam": 1e-4},
    lr_scheduler="epoch_warmup", max_grad_norm=1.0,
)  # fmt: skip
DEFAULTS = {
    "image_classification": CIFAR,
    "flowers102": FLOWERS,
    "aircraft": replace(
        FLOWERS, dataset="Donghyun99/FGVC-Aircraft", num_epochs=100, test_epochs=(2, 5, 10, 20, 50, 100),
        algorithm_list="gradient_heterogeneity/resnet18-aircraft",
    ),
}

TOY = replace(TOY, algorithm_list="toy_other")


class Pictures(Sequence):
    """Rows of a data set as examples {"image", "label", "index"}; `index` is the row's place in the whole set."""

    def __init__(self, rows, indices: Sequence[int], field: str):
        self.rows, self.indices, self.field = rows, indices, field

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> dict:
        row = self.rows[self.indices[i]]
        return {"image": row[self.field], "label": row["label"], "index": self.indices[i]}


class ImageClassification(Classification):
    """`tokenizer` is the model's image processor: it resizes, scales and normalises."""

    augmented = False
    rotation = 0.0  # degrees

    def length(self, index: int) -> int:
        return 0  # all pictures are of one size when the model sees them

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """pixel_values [B, 3, height, width], normalised; labels [B]."""
        return self._batch([decode(example) for example in examples], examples)

    def training_collate(self, examples: list[dict], seed: int) -> dict[str, Tensor]:
        if not self.augmented:
            return self.collate(examples)
        side = self.tokenizer.size.get("shortest_edge") or self.tokenizer.size["height"]
        views = [
            random_view(decode(e), np.random.default_rng((seed, e["index"])), self.rotation).resize((side, side))
            for e in examples
        ]
        return self._batch(views, examples, do_resize=False, do_center_crop=False)  # it would cut off their margins

    def _batch(self, images: list, examples: list[dict], **options: bool) -> dict[str, Tensor]:
        pixels = self.tokenizer(images, return_tensors="pt", **options)["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([example["label"] for example in examples])}

    def tiny_batch(self) -> dict[str, Tensor]:
        """Already as large as the tiny model wants it; the image processor's size is that of `model`'s big sister."""
        config, generator = self.model.config, torch.Generator().manual_seed(0)
        side = getattr(config, "image_size", 16)
        pixels = torch.randn(4, config.num_channels, side, side, generator=generator)
        return {"pixel_values": pixels, "labels": torch.arange(4) % config.num_labels}


def decode(example: dict):
    """The example's PIL image in RGB, from an array [height, width, 3] or what `datasets` stores, {"bytes", "path"}."""
    import datasets
    import PIL.Image

    image = example["image"]
    if isinstance(image, np.ndarray):
        return PIL.Image.fromarray(image)
    try:
        return datasets.Image().decode_example(image).convert("RGB")
    except Exception as error:  # each format's decoder has its own kinds
        raise Refused(f"the picture in row {example['index'] + 1} cannot be decoded: {first_line(error)}") from error


def random_view(image, random: np.random.Generator, rotation: float = 0.0):
    """A random part of a picture, 8 to 100 % of its area with sides of 3:4 to 4:3, mirrored every other time: the usual
    augmentation for ImageNet models (RandomResizedCrop and a flip; the caller stretches it). With `rotation`, turned by
    up to so many degrees either way."""
    import PIL.ImageOps

    width, height = image.size
    for _ in range(10):
        area, ratio = random.uniform(0.08, 1) * width * height, np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            image = image.crop((left, top, left + w, top + h))
            break
    image = PIL.ImageOps.mirror(image) if random.random() < 0.5 else image
    return image.rotate(random.uniform(-rotation, rotation)) if rotation else image


def load(request: Request) -> ImageClassification:
    """Training examples, held-out examples and the model."""
    spec = SPECS[request.name]
    rows, own_test, field = labelled_pictures(request, spec)
    sizes = request.dataset, len(rows), request.dataset_size
    parts = partition(*sizes, spec.evaluation_share, request.seed, with_test=own_test is None)
    splits = {name: Pictures(rows, indices, field) for name, indices in parts._asdict().items()}
    labels = [set(rows["label"] if request.dataset != "toy" else (row["label"] for row in rows))]
    if own_test is not None:
        chosen = official_test(len(own_test), parts, request.dataset_size, request.seed)
        splits["test"] = Pictures(own_test, chosen, field)
        labels.append(set(own_test["label"]))
    num_labels = max(2, 1 + max(set.union(*labels)))
    if request.model == "toy":
        network, processor = toy_model(num_labels, request.model_seed)
    else:
        network, processor = load_pretrained(
            request.model, "AutoModelForImageClassification", request.hf_key, request.model_seed, "AutoImageProcessor",
            num_labels=num_labels,
        )  # fmt: skip
    training = splits.pop("train")
    task = ImageClassification(request.name, network, processor, training, splits)
    task.augmented, task.rotation = spec.augmented, spec.rotation
    return task


def labelled_pictures(request: Request, spec: Spec):
    """(rows to train and evaluate on, rows of the official test or None, name of the image field)."""
    source = request.dataset
    if source == "toy":
        size = request.dataset_size or TOY.dataset_size
        return pictures(rows_for(size, spec.evaluation_share), request.seed), None, "image"
    with explained(source):
        import datasets

        splits = load_splits(source, request.hf_key)
        names = splits["train"].column_names
        field = next((name for name in ("image", "img") if name in names), None)
        if field is not None:
            splits = {k: v.cast_column(field, datasets.Image(decode=False)) for k, v in splits.items()}
            rows = datasets.concatenate_datasets([splits[k] for k in ("train", "validation") if k in splits])
            own_test = None if is_local(source) else splits.get("test")
    if field is None:
        raise ValueError(f"{source} has the fields {', '.join(names)}; wanted image (or img), and label")
    for part in filter(None, (rows, own_test)):
        for number, label in enumerate(part["label"] if "label" in names else [None], 1):
            try:
                require_label({"label": label})
            except ValueError as error:
                raise ValueError(f"{source}, row {number}: {error}") from error
    if is_local(source):
        with explained(source):
            for index in range(len(rows)):
                try:
                    decode({"image": rows[index][field], "index": index})
                except Refused as error:
                    raise Refused(f"{source}: {error}") from error
    return rows, own_test, field


def toy_model(num_labels: int, seed: int):
    """(a ResNet of about thirty thousand parameters, its image processor for pictures of 32 by 32)."""
    quiet_libraries()
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=num_labels
    )
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return fresh_model(ResNetForImageClassification, config, seed), processor
