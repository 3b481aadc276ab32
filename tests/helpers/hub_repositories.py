"""What the 14 tasks find on the hub: names of splits, numbers of rows and fields, from docs/paper_protocols.json, which
says where they were read; and stand-ins with the same names and fewer rows."""

import json
from pathlib import Path
from typing import NamedTuple

from tasks.toy.corpus import toy_corpus
from tasks.toy.labeled import pictures, reviews, sentence_pairs

FACTS = Path(__file__).resolve().parents[2] / "docs" / "paper_protocols.json"


class Repository(NamedTuple):
    source: str  # as the task's default names it
    fields: tuple[str, ...]
    splits: dict[str, int]  # name -> rows on the hub
    unlabeled: tuple[str, ...]  # splits whose labels are all -1
    used: tuple[int, ...]  # rows of training, evaluation and test by default, by hand; training alone where all else is
    all_used: tuple[int, ...]  # the same where no number of rows is asked for


REPOSITORIES = {
    entry["task"]: Repository(
        entry["repository"],
        tuple(entry["fields"]),
        entry["splits"],
        tuple(entry.get("unlabeled", ())),
        tuple(entry["used"]),
        tuple(entry.get("all_used", entry["used"])),
    )
    for entry in json.loads(FACTS.read_text(encoding="utf-8"))["hub"]
}


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
