"""Is a transformer's gradient more unevenly spread than a ResNet's, and a post-norm one's more than a pre-norm one's?

    python -m benchmarks.heterogeneity_study --sentences snli.jsonl.gz --images cifar10.parquet

Tomihari & Sato's expectations (arXiv:2502.00213) on small models from scratch: RoBERTa with its norms after and before
the sublayers, on sentence pairs {"sentence1", "sentence2", "label"}; a ViT and a ResNet, on pictures {"img", "label"}.
Each is measured as initialized, trained with Adam (run_convergence.py), and measured again (run_hessian.py). Several
seeds decide weights, batches, dropout, and which examples are held out. Twenty minutes on one core.

Writes benchmarks/results/heterogeneity.csv and prints its means over the seeds. `tensors` says which were compared: all
of a model, or its weights alone, without biases and embeddings. The latter is the paper's selection. Then kinds of
tensor that only a transformer has play no part. The folder keeps every run, and one figure per seed of all four trained
models."""

import argparse
from pathlib import Path
from statistics import fmean

import run_convergence
import run_hessian
from figures.overlay import draw_overlay
from hessian.heterogeneity import heterogeneity, resolved
from runs.tables import Table, format_table, read_table
from tasks.architectures import fresh_model
from tasks.loading.rows import load_splits
from tasks.text_classification import classifier_class
from tasks.toy.tokenizer import train_byte_tokenizer

RESULTS = Path(__file__).parent / "results"
LENGTH = 64  # tokens of a sentence pair
SIZE = dict(hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96)
TEXT, IMAGES = ("post_norm", "pre_norm"), ("vit", "resnet")
KEYS = ["tensors", "training", "model"]
SHOWN = [
    "training_loss",
    "held_out_accuracy",
    "blocks",
    "gini_gradient",
    "gini_gradient_rms",
    "gini_eigenvalue",
    "complexity_ratio",
    "spearman",
    "log_log_pearson",
]


def save_text_models(folder: Path, sentences: str, seed: int) -> None:
    from transformers import RobertaConfig, RobertaPreLayerNormConfig

    rows = load_splits(sentences)["train"]
    tokenizer = train_byte_tokenizer((row[field] for row in rows for field in ("sentence1", "sentence2")), LENGTH)
    for name, config_class in zip(TEXT, (RobertaConfig, RobertaPreLayerNormConfig), strict=True):
        config = config_class(
            **SIZE,
            vocab_size=len(tokenizer),
            max_position_embeddings=LENGTH + 2,
            type_vocab_size=1,
            num_labels=3,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        fresh_model(classifier_class(config), config, seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def save_image_models(folder: Path, seed: int) -> None:
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

    vit = ViTConfig(**SIZE, image_size=32, patch_size=4, num_labels=10)
    resnet = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32], depths=[1, 2, 1], layer_type="basic", num_labels=10
    )
    networks = (ViTForImageClassification, vit), (ResNetForImageClassification, resnet)
    for name, (model_class, config) in zip(IMAGES, networks, strict=True):
        fresh_model(model_class, config, seed).save_pretrained(folder / name)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / name)


def train_and_measure(name: str, task: str, data: list[str], place: Path, seed: int, epochs: int) -> None:
    """Run folders before/<name>, trained/<name> and after/<name> in `place`."""
    shared = ["--task", task, "--dataset", *data, "--model", str(place / "fresh" / name)]
    measure = ["--num_batches", "2", "--batch_size", "16", "--tolerance", "0.01", "--seed", str(seed), "--overwrite"]
    training = [
        "--algorithm_list",
        "gradient_heterogeneity",
        "--only",
        "adam",
        "--batch_size",
        "32",
        "--overwrite",
        "--num_epochs",
        str(epochs),
        "--lr_scheduler",
        "linear_with_warmup",
        "--max_grad_norm",
        "1",
        "--save_model",
        "--seeds",
        str(seed),
    ]
    checkpoint = ["--checkpoint", str(place / "trained" / name)]
    for script, flags, stage in (
        (run_hessian, [*shared, *measure], "before"),
        (run_convergence, [*shared, *training], "trained"),
        (run_hessian, [*checkpoint, *measure], "after"),
    ):
        if script.main([*flags, "--output_dir", str(place / stage / name)]):
            raise SystemExit(f"{name}: stopped")


def measures(name: str, place: Path, seed: int) -> list[dict]:
    """Rows of the table: before and after training, of all tensors and of the weights alone."""
    (summary,) = read_table(place / "trained" / name / "summary.csv")
    last_scores = {row["split"]: row["value"] for row in read_table(place / "trained" / name / "scores.csv")}
    rows = []
    for stage in ("before", "after"):
        blocks = [row for row in read_table(place / stage / name / "blocks.csv") if row["batch"] == "mean"]
        weights = [row for row in blocks if row["block"].endswith("weight") and "embed" not in row["block"]]
        for tensors, chosen in (("all", blocks), ("weights", weights)):
            numbers = [
                (row["gradient_norm"], resolved(row["eigenvalue"], row["residual"]), row["numel"]) for row in chosen
            ]
            statistics = heterogeneity(*zip(*numbers, strict=True))
            rows.append(dict(model=name, seed=seed, training=stage, tensors=tensors, **statistics))
            rows[-1] |= dict(training_loss=None, held_out_accuracy=None)
            if stage == "after":
                accuracy = (last_scores["evaluation"] + last_scores["test"]) / 2  # of as many examples each
                rows[-1] |= dict(training_loss=summary["final_loss_mean"], held_out_accuracy=accuracy)
    return rows


def means(rows: list[dict]) -> list[dict]:
    """Of the shown columns over the seeds. It adds the range of the gradients' Gini coefficient, and the number of
    seeds whose 95 % interval of the rank correlation lies above 0."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    table = []
    for group, own in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] == "after")):
        gini = [row["gini_gradient"] for row in own]
        table.append(
            dict(zip(KEYS, group, strict=True))
            | dict(
                {column: fmean(row[column] for row in own) for column in SHOWN if own[0][column] is not None},
                gini_range=f"{min(gini):.3f} to {max(gini):.3f}",
                interval_above_0=f"{sum(row['spearman_low'] > 0 for row in own)} of {len(own)}",
            )
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", required=True, metavar="FILE", help="sentence pairs with three labels")
    parser.add_argument("--images", required=True, metavar="FILE", help="pictures of 32 by 32 with ten labels")
    parser.add_argument("--num_sentences", type=int, metavar="N", help="pairs to train on; default 4/5 of the file")
    parser.add_argument("--num_images", type=int, default=1600, metavar="N", help="pictures to train on")
    parser.add_argument("--sentence_epochs", type=int, default=6, metavar="N")
    parser.add_argument("--image_epochs", type=int, default=12, metavar="N")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output_dir", default="output/heterogeneity", metavar="FOLDER")
    args = parser.parse_args()
    size = ["--dataset_size", str(args.num_sentences)] if args.num_sentences else []
    sentences = [args.sentences, "--max_length", str(LENGTH), *size]
    images = [args.images, "--dataset_size", str(args.num_images)]
    rows = []
    for seed in args.seeds:
        place = Path(args.output_dir) / f"seed{seed}"
        save_text_models(place / "fresh", args.sentences, seed)
        save_image_models(place / "fresh", seed)
        for name in TEXT:
            train_and_measure(name, "glue/rte", sentences, place, seed, args.sentence_epochs)
        for name in IMAGES:
            train_and_measure(name, "image_classification", images, place, seed, args.image_epochs)
        for name in (*TEXT, *IMAGES):
            rows += measures(name, place, seed)
        draw_overlay([place / "after" / name for name in (*TEXT, *IMAGES)], place)
        table = Table(RESULTS / "heterogeneity.csv", [*rows[-1]])
        for row in rows:
            table.append(row)
        table.save()
    print(format_table(means(rows), [*KEYS, *SHOWN[:4], "gini_range", *SHOWN[4:], "interval_above_0"]))
    print(RESULTS / "heterogeneity.csv")


if __name__ == "__main__":
    main()
