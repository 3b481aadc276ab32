"""What the 14 tasks find on the hub: names of splits, numbers of rows and fields, from the pages of the repositories;
and stand-ins with the same names and fewer rows."""

from typing import NamedTuple

from tasks.toy.corpus import toy_corpus
from tasks.toy.labeled import pictures, reviews, sentence_pairs


class Repository(NamedTuple):
    source: str  # as the task's default names it
    fields: tuple[str, ...]
    splits: dict[str, int]  # name -> rows on the hub
    unlabeled: tuple[str, ...] = ()  # splits whose labels are all -1
    used: tuple[int, int, int] | None = None  # rows of training, evaluation and test when all are used, by hand


GLUE, SUPER_GLUE = ("test",), ("test",)  # both keep the labels of their test secret
REPOSITORIES = {
    "machine_translation": Repository("Helsinki-NLP/opus_books:en-fr", ("id", "translation"), {"train": 127_085}),
    "masked_language_modeling": Repository(
        "stanfordnlp/imdb", ("text", "label"), {"train": 25_000, "test": 25_000, "unsupervised": 50_000},
    ),
    "autoregressive": Repository(
        "bigcode/the-stack-smol:data/python",
        ("content", "avg_line_length", "max_line_length", "alphanum_fraction", "licenses", "repository_name", "path",
         "size", "lang"), {"train": 10_000},
    ),
    "binary_classification": Repository(
        "stanfordnlp/imdb", ("text", "label"), {"train": 25_000, "test": 25_000, "unsupervised": 50_000},
        ("unsupervised",), (22_500, 2_500, 25_000),
    ),
    "glue/rte": Repository(
        "aps/super_glue:rte", ("premise", "hypothesis", "idx", "label"),
        {"train": 2_490, "validation": 277, "test": 3_000}, SUPER_GLUE, (2_241, 249, 277),
    ),
    "glue/cola": Repository(
        "nyu-mll/glue:cola", ("sentence", "label", "idx"),
        {"train": 8_551, "validation": 1_043, "test": 1_063}, GLUE, (7_695, 856, 1_043),
    ),
    "glue/sst2": Repository(
        "nyu-mll/glue:sst2", ("sentence", "label", "idx"),
        {"train": 67_349, "validation": 872, "test": 1_821}, GLUE, (60_614, 6_735, 872),
    ),
    "glue/mrpc": Repository(
        "nyu-mll/glue:mrpc", ("sentence1", "sentence2", "label", "idx"),
        {"train": 3_668, "validation": 408, "test": 1_725}, GLUE, (3_301, 367, 408),
    ),
    "super_glue/cb": Repository(
        "aps/super_glue:cb", ("premise", "hypothesis", "idx", "label"),
        {"train": 250, "validation": 56, "test": 250}, SUPER_GLUE, (225, 25, 56),
    ),
    "super_glue/wic": Repository(
        "aps/super_glue:wic",
        ("word", "sentence1", "sentence2", "start1", "start2", "end1", "end2", "idx", "label"),
        {"train": 5_428, "validation": 638, "test": 1_400}, SUPER_GLUE, (4_885, 543, 638),
    ),
    "super_glue/boolq": Repository(
        "aps/super_glue:boolq", ("question", "passage", "idx", "label"),
        {"train": 9_427, "validation": 3_270, "test": 3_245}, SUPER_GLUE, (8_484, 943, 3_270),
    ),
    "image_classification": Repository(
        "uoft-cs/cifar10", ("img", "label"), {"train": 50_000, "test": 10_000}, (), (45_000, 5_000, 10_000),
    ),
    "flowers102": Repository(
        "dpdl-benchmark/oxford_flowers102", ("image", "label"),
        {"train": 1_020, "validation": 1_020, "test": 6_149}, (), (1_632, 408, 6_149),
    ),
    "aircraft": Repository(
        "Donghyun99/FGVC-Aircraft", ("image", "label"), {"train": 3_334, "val": 3_333, "test": 3_333}, (),
        (5_333, 1_334, 3_333),
    ),
}  # fmt: skip


def small_splits(task: str) -> dict[str, list[dict]]:
    """split -> rows with the fields of the repository: 40 to train on, fewer elsewhere, labels -1 where secret."""
    repository = REPOSITORIES[task]
    splits = {}
    for name in repository.splits:
        size = 40 if name == "train" else 20 if name.startswith("val") else 8
        columns = {field: _column(task, field, size) for field in repository.fields}
        if name in repository.unlabeled:
            columns["label"] = [-1] * size
        splits[name] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return splits


def _column(task: str, field: str, size: int) -> list:
    """`size` values of a field. Texts and labels are those of the generated data, so that they belong together."""
    import PIL.Image

    if field == "translation":
        return [row["translation"] for row in toy_corpus(size, 0)]
    if field in ("image", "img"):
        return [PIL.Image.fromarray(row["image"]) for row in pictures(size, 0)]
    if field in ("text", "sentence"):
        return [row["text"] for row in reviews(size, 0)]
    if field in ("premise", "question", "sentence1", "hypothesis", "passage", "sentence2"):
        first = field in ("premise", "question", "sentence1")
        return [row["sentence1" if first else "sentence2"] for row in sentence_pairs(size, 0, _labels(task))]
    if field == "label":
        fields = REPOSITORIES[task].fields
        if {"image", "img"} & set(fields):
            rows = pictures(size, 0)
        else:
            one_text = {"text", "sentence"} & set(fields)
            rows = reviews(size, 0) if one_text else sentence_pairs(size, 0, _labels(task))
        return [row["label"] for row in rows]
    if field == "content":
        return ["import this\nprint('hello')\n" * (1 + i % 7) for i in range(size)]
    return {"word": ["red"], "licenses": [["MIT"]], "lang": ["Python"]}.get(field, [0]) * size


def _labels(task: str) -> int:
    return 3 if task == "super_glue/cb" else 2
