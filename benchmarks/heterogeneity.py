"""Is a transformer's gradient more unevenly spread than a ResNet's, and a post-norm one's more than a pre-norm one's?

    python benchmarks/heterogeneity.py --sentences snli.jsonl.gz --images cifar10.parquet --output_dir output/uneven

Tomihari & Sato's expectations (arXiv:2502.00213) on small models from scratch: RoBERTa with its norms after and before
the sublayers, on sentence pairs {"sentence1", "sentence2", "label"}; a ViT and a ResNet, on pictures {"img", "label"}.
Each is measured as initialised, trained with Adam (run_convergence.py), and measured again (run_hessian.py). Leaves the
run folders and overlaid figures of the text models, of the image models and of all four. Some minutes a model."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import run_convergence  # noqa: E402
import run_hessian  # noqa: E402
from plotting import draw_overlay  # noqa: E402
from results import format_table, read_table  # noqa: E402
from tasks.architectures import fresh_model  # noqa: E402
from tasks.data import load_splits  # noqa: E402
from tasks.text_classification import classifier_class  # noqa: E402
from tasks.toy_tokenizer import train_byte_tokenizer  # noqa: E402

LENGTH = 64  # tokens of a sentence pair
SIZE = dict(hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96)
TEXT, IMAGES = ("post_norm", "pre_norm"), ("vit", "resnet")


def save_text_models(folder: Path, sentences: str) -> None:
    from transformers import RobertaConfig, RobertaPreLayerNormConfig

    rows = load_splits(sentences)["train"]
    tokenizer = train_byte_tokenizer((row[field] for row in rows for field in ("sentence1", "sentence2")), LENGTH)
    for name, config_class in zip(TEXT, (RobertaConfig, RobertaPreLayerNormConfig), strict=True):
        config = config_class(
            **SIZE, vocab_size=len(tokenizer), max_position_embeddings=LENGTH + 2, type_vocab_size=1, num_labels=3,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        fresh_model(classifier_class(config), config, seed=0).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def save_image_models(folder: Path) -> None:
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
        fresh_model(model_class, config, seed=0).save_pretrained(folder / name)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / name)


def train_and_measure(name: str, task: str, data: str, folder: Path, epochs: int) -> None:
    """Folders measured/<name>_initial, trained/<name> and measured/<name>."""
    def done(status: int) -> None:
        if status:
            raise SystemExit(f"{name}: stopped")

    shared = ["--task", task, "--dataset", data, "--max_length", str(LENGTH), "--overwrite"]
    measure = ["--num_batches", "2", "--batch_size", "16", "--tolerance", "0.01", "--overwrite"]
    model = ["--model", str(folder / "fresh" / name)]
    done(run_hessian.main([*shared, *measure, *model, "--output_dir", str(folder / "measured" / f"{name}_initial")]))
    done(run_convergence.main([
        *shared, *model, "--algorithm_list", "gradient_heterogeneity", "--only", "adam", "--batch_size", "32",
        "--num_epochs", str(epochs), "--lr_scheduler", "linear", "--max_grad_norm", "1", "--save_model",
        "--output_dir", str(folder / "trained" / name),
    ]))  # fmt: skip
    trained = ["--checkpoint", str(folder / "trained" / name), "--output_dir", str(folder / "measured" / name)]
    done(run_hessian.main([*measure, *trained]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", required=True, metavar="FILE", help="sentence pairs with three labels")
    parser.add_argument("--images", required=True, metavar="FILE", help="pictures of 32 by 32 with ten labels")
    parser.add_argument("--output_dir", default="output/heterogeneity", metavar="FOLDER")
    parser.add_argument("--num_epochs", type=int, default=8, metavar="N")
    args = parser.parse_args()
    folder = Path(args.output_dir)
    save_text_models(folder / "fresh", args.sentences)
    save_image_models(folder / "fresh")
    for name in TEXT:
        train_and_measure(name, "glue/rte", args.sentences, folder, args.num_epochs)
    for name in IMAGES:
        train_and_measure(name, "image_classification", args.images, folder, args.num_epochs)
    measured = {name: folder / "measured" / name for pair in (TEXT, IMAGES) for name in pair}
    for name, group in {"text": TEXT, "images": IMAGES, "all": (*TEXT, *IMAGES)}.items():
        draw_overlay([measured[model] for model in group], folder / f"overlay_{name}")
    rows = []
    for path in sorted((folder / "measured").iterdir()):
        rows += [{"model": path.name, **row} for row in read_table(path / "heterogeneity.csv")
                 if (row["batch"], row["group"]) == ("mean", "all")]  # fmt: skip
    columns = ["model", "blocks", "gini_gradient", "gini_gradient_rms", "gini_eigenvalue", "complexity_ratio",
               "spearman", "spearman_low", "spearman_high", "log_log_pearson"]  # fmt: skip
    print(format_table(rows, columns))


if __name__ == "__main__":
    main()
