"""A label for a text or a pair of texts: IMDb reviews (Pan & Li), seven tasks of GLUE and SuperGLUE (Tomihari & Sato).

Local files have the fields of the hub's data set, or {"text", "label"} for one text and {"sentence1",
"sentence2", "label"} for a pair. The number of labels is that of the data."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tasks.architectures import fresh_model
from tasks.base import pad, random_ids
from tasks.classification import (
    Classification,
    assign_splits,
    official_test,
    partition,
    rows_for,
    with_label_field,
)
from tasks.loading.encoding import encode
from tasks.loading.own import LABELED_PAIR, LABELED_TEXT, numbered_labels, splits_of
from tasks.loading.pretrained import load_pretrained
from tasks.loading.rows import Refused, check_rows, explained, require_label, require_text
from tasks.protocols import TOY, Request
from tasks.toy.labeled import reviews, sentence_pairs
from tasks.toy.tokenizer import train_byte_tokenizer

EVALUATION_SHARE = 0.1  # of the training split


@dataclass(frozen=True)
class Spec:
    """What distinguishes one of these tasks from the others."""

    fields: tuple[str, ...]  # one text or two, as the hub's data set calls them
    test_split: str = "validation"  # GLUE keeps the labels of its own test to itself
    metric: str = "accuracy"
    shuffle: bool = False  # where the file is sorted by label
    toy_labels: int = 2
    question: str | None = None  # rows with a `word` become this one text, as in Tomihari & Sato's code

    @property
    def plain_fields(self) -> tuple[str, ...]:
        return ("text",) if len(self.fields) == 1 else ("sentence1", "sentence2")


SPECS = {
    "text_classification": Spec(("text",), test_split="test", shuffle=True),
    "text_pair_classification": Spec(("sentence1", "sentence2"), test_split="test", shuffle=True),
    "binary_classification": Spec(("text",), test_split="test", shuffle=True),
    "glue/rte": Spec(("premise", "hypothesis")),  # SuperGLUE's names; those of GLUE are the plain ones
    "glue/cola": Spec(("sentence",), metric="matthews_correlation"),
    "glue/sst2": Spec(("sentence",)),
    "glue/mrpc": Spec(("sentence1", "sentence2"), metric="f1"),
    "super_glue/cb": Spec(("premise", "hypothesis"), metric="f1", toy_labels=3),
    "super_glue/wic": Spec(
        ("sentence1", "sentence2"),
        question="{sentence1} {sentence2} Does {word} have the same meaning in both sentences?",
    ),
    "super_glue/boolq": Spec(("question", "passage")),
}


class TextClassification(Classification):
    """Examples {"input_ids", "label"}, with "token_type_ids" where the tokenizer gives them."""

    def length(self, index: int) -> int:
        return len(self.examples[index]["input_ids"])

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """input_ids, attention_mask (and token_type_ids) [B, T]; labels [B]."""
        inputs = [example["input_ids"] for example in examples]
        batch = {
            "input_ids": pad(inputs, self.model.config.pad_token_id or 0),
            "attention_mask": pad([[1] * len(ids) for ids in inputs], 0),
            "labels": pad([[example["label"]] for example in examples], 0)[:, 0],
        }
        if "token_type_ids" in examples[0]:
            batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
        return batch

    def tiny_batch(self) -> dict[str, Tensor]:
        labels = self.model.config.num_labels
        return self.collate([{"input_ids": ids, "label": i % labels} for i, ids in enumerate(random_ids([9, 6, 4, 2]))])


def load(request: Request) -> TextClassification:
    """Training examples, held-out examples and the model."""
    spec = SPECS[request.name]
    splits, num_labels, words = labeled_texts(request, spec)
    texts = splits["train"][0]
    if request.model == "toy":
        tokenizer = train_byte_tokenizer((t for column in texts for t in column), request.max_length)
        network = toy_model(tokenizer, request, num_labels)
    else:
        network, tokenizer = load_pretrained(
            request.model, classifier_class, request.hf_key, request.model_seed, num_labels=num_labels
        )
    examples = {}
    for split, (columns, labels) in splits.items():
        cached = request.dataset != "toy"
        encodings = encode(tokenizer, *columns, cached=cached, max_length=request.max_length)
        examples[split] = [encoding | {"label": y} for encoding, y in zip(encodings, labels, strict=True)]
    training = examples.pop("train")
    return TextClassification(request.name, network, tokenizer, training, examples, spec.metric, words)


def labeled_texts(request: Request, spec: Spec) -> tuple[dict[str, tuple[list[list[str]], list[int]]], int, list[str]]:
    """({"train" | "evaluation" | "test": (columns of texts, labels)}, number of labels, the words of the data for the
    labels 0, 1, ..., if they are words there)."""
    source, fields = request.dataset, spec.fields
    if source == "toy":
        count = rows_for(request.dataset_size or TOY.dataset_size, EVALUATION_SHARE)
        if len(fields) == 1:
            rows, fields = reviews(count, request.seed, request.zipf), ("text",)
        else:
            rows = sentence_pairs(count, request.seed, spec.toy_labels, request.zipf)
            fields = ("sentence1", "sentence2")
        own_test, words = [], []
    else:
        with explained(source):
            by_name = splits_of(request, LABELED_TEXT if len(fields) == 1 else LABELED_PAIR)
            if "train" in by_name:  # without it `assign_splits` refuses
                fields = present_fields(source, by_name["train"].column_names, spec)
            by_name, words = numbered_labels(with_label_field(source, by_name))
            splits = assign_splits(source, by_name, "test" if request.eval_dataset else spec.test_split)
            rows = [row for split in splits.training for row in split.to_list()]
            own_test = [] if splits.test is None else splits.test.to_list()
        checked = (*fields, "word") if spec.question and "word" in rows[0] else fields
        for part in (rows, own_test):
            check_rows(source, part, lambda row: check_row(row, checked))
    seed = request.seed if spec.shuffle else None
    size = None if request.is_own and len(rows) < request.dataset_size else request.dataset_size
    parts = partition(source, len(rows), size, EVALUATION_SHARE, seed, with_test=not own_test)
    chosen = {name: [rows[i] for i in indices] for name, indices in parts._asdict().items()}
    if own_test:
        chosen["test"] = [own_test[i] for i in official_test(len(own_test), parts, size, seed)]
    num_labels = max(2, 1 + max(row["label"] for row in [*rows, *own_test]))
    columns = {
        name: (texts_of(part, fields, spec.question), [row["label"] for row in part]) for name, part in chosen.items()
    }
    return columns, num_labels, words


def present_fields(source: str, names: Sequence[str], spec: Spec) -> tuple[str, ...]:
    """The task's own field names or the plain ones, whichever are among `names`, those of the data. Refused if neither
    are."""
    for fields in (spec.fields, spec.plain_fields):
        if all(field in names for field in fields):
            return fields
    wanted = " or ".join(dict.fromkeys(", ".join(f) for f in (spec.fields, spec.plain_fields)))
    raise Refused(f"{source} has the fields {', '.join(names)}; wanted {wanted}, and label")


def check_row(row: dict, fields: tuple[str, ...]) -> None:
    for field in fields:
        require_text(row, field)
    require_label(row)


def texts_of(rows: list[dict], fields: tuple[str, ...], question: str | None) -> list[list[str]]:
    """One column of texts per field; a single column where rows with a `word` are put into `question` (WiC)."""
    if question and rows and "word" in rows[0]:
        return [[question.format(**row) for row in rows]]
    return [[row[field] for row in rows] for field in fields]


def classifier_class(config) -> type:
    """The model class for a configuration: RoBERTa gets a linear head."""
    import transformers

    if config.model_type in ("roberta", "roberta-prelayernorm"):
        from tasks.roberta_linear import LINEAR_HEADS

        return LINEAR_HEADS[config.model_type]
    return transformers.AutoModelForSequenceClassification


def toy_model(tokenizer, request: Request, num_labels: int):
    """The architecture of the task's hub model, with about a third of a million parameters."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, RobertaConfig

    common = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=request.max_length + 2,
        num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    if request.name == "binary_classification":
        config = DistilBertConfig(**common, dim=96, n_layers=2, n_heads=4, hidden_dim=192)
        return fresh_model(DistilBertForSequenceClassification, config, request.model_seed)
    config = RobertaConfig(
        **common,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        type_vocab_size=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return fresh_model(classifier_class(config), config, request.model_seed)
