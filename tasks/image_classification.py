"""A label for a picture: CIFAR-10 (Pan & Li), Flowers102 and FGVC-Aircraft (Tomihari & Sato).

Rows are {"image" or "img": picture as `datasets` stores it, "label"}. They stay encoded until a batch wants them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.architectures import fresh_model
from tasks.classification import (
    Classification,
    assign_splits,
    official_test,
    partition,
    rows_for,
    with_label_field,
)
from tasks.loading.hub import first_line, local_path, quiet_libraries
from tasks.loading.own import LABELED_PICTURE, numbered_labels, splits_of
from tasks.loading.pretrained import load_pretrained
from tasks.loading.rows import Refused, explained, is_file, require_label
from tasks.protocols import TOY, Request
from tasks.toy.labeled import pictures


@dataclass(frozen=True)
class Spec:
    """What distinguishes one of these tasks from the others."""

    evaluation_share: float
    augmented: bool  # a random crop, mirrored or not, in training; the middle of the picture elsewhere
    rotation: float = 0.0  # before the crop, turned by up to this many degrees either way


SPECS = {
    "image_classification": Spec(evaluation_share=0.1, augmented=False),
    "flowers102": Spec(evaluation_share=0.2, augmented=True, rotation=45.0),
    "aircraft": Spec(evaluation_share=0.2, augmented=True),
}


class Pictures(Sequence):
    """Rows of a data set as examples {"image", "label", "index"}; `index` is the row's place in the whole set.

    A row that names a file instead of holding the picture's bytes must name one inside `folder`."""

    def __init__(self, rows, indices: Sequence[int], field: str, folder: Path | None = None):
        self.rows, self.indices, self.field, self.folder = rows, indices, field, folder

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> dict:
        index = self.indices[i]
        row = self.rows[index]
        image = row[self.field]
        if not isinstance(image, np.ndarray):
            image = encoded(image, self.folder, index)
        return {"image": image, "label": row["label"], "index": index}


class ImageClassification(Classification):
    """`processor` is the model's image processor: it resizes, scales and normalizes."""

    augmented = False
    rotation = 0.0  # degrees

    def length(self, index: int) -> int:
        return 0  # all pictures are of one size when the model sees them

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """pixel_values [B, 3, height, width], normalized; labels [B]."""
        images = [decode(example) for example in examples]
        return self._batch([middle(image, self.side) for image in images] if self.augmented else images, examples)

    def training_collate(self, examples: list[dict], seed: int) -> dict[str, Tensor]:
        if not self.augmented:
            return self.collate(examples)
        views = [
            random_view(decode(e), self.side, np.random.default_rng((seed, e["index"])), self.rotation)
            for e in examples
        ]
        return self._batch(views, examples)

    @property
    def side(self) -> int:
        """Width and height of the pictures as the model sees them."""
        cut = getattr(self.processor, "do_center_crop", None) and self.processor.crop_size
        size = cut or self.processor.size
        return size.get("shortest_edge") or size["height"]

    def _batch(self, images: list, examples: list[dict]) -> dict[str, Tensor]:
        # views have their final size already, and a processor's own crop would cut off their margins
        options = dict(do_resize=False, do_center_crop=False) if self.augmented else {}
        pixels = self.processor(images, return_tensors="pt", **options)["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([example["label"] for example in examples])}

    def tiny_batch(self) -> dict[str, Tensor]:
        """At the size of the tiny model; the processor still has the full model's image size."""
        config, generator = self.model.config, torch.Generator().manual_seed(0)
        side = getattr(config, "image_size", 16)
        pixels = torch.randn(4, config.num_channels, side, side, generator=generator)
        return {"pixel_values": pixels, "labels": torch.arange(4) % config.num_labels}


def encoded(image: dict, folder: Path | None, index: int) -> bytes:
    """The bytes of a picture file from what `datasets` stores, {"bytes", "path"}.

    A data set is not trusted to name just any file, and never an address: Refused unless the path leads to a file
    inside `folder`, to which a relative one is relative.
    """
    if image.get("bytes") is not None:
        return image["bytes"]
    name = image.get("path") or ""
    path = None if folder is None or not name or "://" in name else (folder / name).resolve()
    if path is None or not path.is_relative_to(folder.resolve()):
        raise Refused(
            f"the picture in row {index + 1} is given as {name[:80]!r}; expected its bytes, or the name of a file in "
            "the folder of the data"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"the picture in row {index + 1} cannot be read: {first_line(error)}") from error


def decode(example: dict):
    """The example's PIL image in RGB, from an array [height, width, 3] or the bytes of a picture file."""
    import PIL.Image
    import PIL.ImageOps

    if isinstance(example["image"], np.ndarray):
        return PIL.Image.fromarray(example["image"])
    try:
        return PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(example["image"]))).convert("RGB")
    except Exception as error:  # each format's decoder has its own kinds
        raise Refused(f"the picture in row {example['index'] + 1} cannot be decoded: {first_line(error)}") from error


def random_view(image, side: int, random: np.random.Generator, rotation: float = 0.0):
    """A picture [side, side] as Tomihari & Sato train on it. It is turned by up to `rotation` degrees either way
    (nearest pixel, black corners). Then a random part of it is stretched, and mirrored every other time. They use
    torchvision's RandomRotation, RandomResizedCrop and RandomHorizontalFlip."""
    import PIL.Image
    import PIL.ImageOps

    if rotation:
        image = image.rotate(random.uniform(-rotation, rotation))
    left, top, width, height = random_part(*image.size, random)
    image = image.crop((left, top, left + width, top + height)).resize((side, side), PIL.Image.Resampling.BILINEAR)
    return PIL.ImageOps.mirror(image) if random.random() < 0.5 else image


def random_part(width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height) of 8 to 100 % of a picture's area, with sides of 3:4 to 4:3. If ten draws do not fit
    into the picture, the crop is the largest central part with such a ratio of sides."""
    for _ in range(10):
        area, ratio = random.uniform(0.08, 1) * width * height, np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, top, w, h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


def middle(image, side: int):
    """A picture [side, side] as Tomihari & Sato evaluate on it. The shorter edge is resized to 256 for a `side` of 224,
    and the rest is cut off on all sides alike."""
    import PIL.Image

    shorter = round(side * 256 / 224)
    width, height = (shorter * edge // min(image.size) for edge in image.size)
    image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def load(request: Request) -> ImageClassification:
    """Training examples, held-out examples and the model."""
    spec = SPECS[request.name]
    rows, own_test, field, folder, words = labeled_pictures(request, spec)
    sizes = request.dataset, len(rows), request.dataset_size
    parts = partition(*sizes, spec.evaluation_share, request.seed, with_test=own_test is None)
    splits = {name: Pictures(rows, indices, field, folder) for name, indices in parts._asdict().items()}
    labels = [set(rows["label"] if request.dataset != "toy" else (row["label"] for row in rows))]
    if own_test is not None:
        chosen = official_test(len(own_test), parts, request.dataset_size, request.seed)
        splits["test"] = Pictures(own_test, chosen, field, folder)
        labels.append(set(own_test["label"]))
    num_labels = max(2, 1 + max(set.union(*labels)))
    if request.model == "toy":
        network, processor = toy_model(num_labels, request.model_seed)
    else:
        network, processor = load_pretrained(
            request.model,
            "AutoModelForImageClassification",
            request.hf_key,
            request.model_seed,
            "AutoImageProcessor",
            num_labels=num_labels,
        )
    training = splits.pop("train")
    task = ImageClassification(request.name, network, processor, training, splits, label_words=words)
    task.augmented, task.rotation = spec.augmented, spec.rotation
    return task


def labeled_pictures(request: Request, spec: Spec):
    """(rows to train and evaluate on, rows of the official test or None, name of the image field, the folder that
    pictures may be read from, the words of the data for the labels)."""
    source = request.dataset
    if source == "toy":
        size = request.dataset_size or TOY.dataset_size
        rows = pictures(rows_for(size, spec.evaluation_share), request.seed, zipf=request.zipf)
        return rows, None, "image", None, []
    with explained(source):
        import datasets

        splits = splits_of(request, LABELED_PICTURE)
        names = splits["train"].column_names if "train" in splits else []
        field = next((name for name in ("image", "img") if name in names), None)
        if names and field is None:
            raise Refused(f"{source} has the fields {', '.join(names)}; expected image (or img), and label")
        if field is not None:  # without it `assign_splits` refuses
            splits = {k: v.cast_column(field, datasets.Image(decode=False)) for k, v in splits.items()}
        splits, words = numbered_labels(with_label_field(source, splits))
        training, own_test = assign_splits(source, splits, test="test")
        rows = datasets.concatenate_datasets(training)
    for part in filter(None, (rows, own_test)):
        for number, label in enumerate(part["label"] if "label" in part.column_names else [None], 1):
            try:
                require_label({"label": label})
            except ValueError as error:
                raise ValueError(f"{source}, row {number}: {error}") from error
    folder = local_path(source).parent if is_file(source) else Path(datasets.config.HF_CACHE_HOME)
    if is_file(source):
        try:
            for example in Pictures(rows, range(len(rows)), field, folder):
                decode(example)
        except Refused as error:
            raise Refused(f"{source}: {error}") from error
    return rows, own_test, field, folder, words


def toy_model(num_labels: int, seed: int):
    """(a ResNet of about thirty thousand parameters, its image processor for pictures of 32 by 32)."""
    quiet_libraries()
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=num_labels
    )
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return fresh_model(ResNetForImageClassification, config, seed), processor
