"""Examples per second of our training loop and of transformers.Trainer, side by side on the same steps.

    pip install accelerate                                   # the Trainer needs it, this project does not
    python -m benchmarks.training                            # the toy model, a minute
    python -m benchmarks.training --size t5-small            # 60 M parameters with random weights
    python -m benchmarks.training --dataset pairs.jsonl.gz   # people's sentences instead of generated ones
    python -m benchmarks.training --device cuda --without_missing   # ours alone where accelerate is not installed

Both train the same weights on the same batches in the same order. Optimizer, micro-batches and per-example objective
are the same, and dropout is off. The Trainer pads every micro-batch to its own longest example (dynamic padding) and
neither logs, evaluates nor saves; its length grouping would change the batches. Only the training itself is timed: the
Trainer from on_train_begin to on_train_end. The two take turns. The table shows medians over rounds, the largest
relative difference of a loss, and the share of padding among the tokens. On a shared machine use --threads 1, where CPU
time is measured instead of wall time. Prints one table and adds it to results/<machine>/training.csv, beside those of
other sizes and data."""

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from benchmarks._machine import Machine, add_flags, missing, read, require, write
from runs.machine import prepare_machine
from tasks import Task, load_task
from training.loop import ORDER, Training, TrainingPlan, random_stream

SIZES = {  # examples, batch, micro-batch, epochs
    "toy": (640, 64, 32, 2),
    "t5-small": (128, 128, 16, 1),
    "tiny": (8, 8, 4, 1),
}
KEY = ("size", "data", "batch", "threads")
PEER = {"accelerate": "accelerate"}


def make_task(size: str, dataset: str, num_examples: int) -> Task:
    """Pairs to translate, and a T5 without dropout; the weights of "t5-small" are random, its sizes T5's defaults."""
    task = load_task("machine_translation", dataset=dataset, model="toy", dataset_size=num_examples)
    config = transformers.T5Config(decoder_start_token_id=0) if size == "t5-small" else task.model.config
    config.dropout_rate = 0.0
    torch.manual_seed(0)
    task.model = transformers.T5ForConditionalGeneration(config)
    return task


def make_optimizer(task: Task) -> torch.optim.Optimizer:
    return torch.optim.SGD(task.model.parameters(), lr=1e-1, momentum=0.9, dampening=0.9)


def ours(
    machine: Machine, task: Task, batch_size: int, micro_batch_size: int, epochs: int
) -> tuple[float, list[float]]:
    """(seconds, the loss of every step)."""
    training, losses = Training(task, make_optimizer(task), TrainingPlan(epochs, batch_size, micro_batch_size)), []
    start = machine.clock()
    for point in training:
        losses.append(point.loss)
        training.step()
    return machine.clock() - start, losses


class Stopwatch(transformers.TrainerCallback):
    def __init__(self, machine: Machine) -> None:
        self.clock = machine.clock

    def on_train_begin(self, *_, **__):
        self.start = self.clock()

    def on_train_end(self, *_, **__):
        self.seconds = self.clock() - self.start


class PerExampleTrainer(transformers.Trainer):
    """The Trainer on our objective, the mean over examples of each one's own loss, in the order of its data set."""

    def __init__(self, task: Task, **options):
        super().__init__(task.model, **options)
        self.task, self.losses = task, []
        self.model_accepts_loss_kwargs = False  # the objective is a mean over examples: no count of tokens is needed

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = self.task.losses(model, inputs).mean()
        self.losses.append(loss.detach())
        return loss

    def get_train_dataloader(self):
        loader = torch.utils.data.DataLoader(
            self.train_dataset, self.args.per_device_train_batch_size, collate_fn=self.task.collate
        )
        return self.accelerator.prepare(loader)


def theirs(
    machine: Machine, task: Task, batch_size: int, micro_batch_size: int, epochs: int
) -> tuple[float, list[float]]:
    """(seconds, the loss of every step) of the Trainer."""
    accumulation = batch_size // micro_batch_size
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=1,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        use_cpu=machine.is_cpu,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    stopwatch = Stopwatch(machine)
    trainer = PerExampleTrainer(
        task,
        args=arguments,
        train_dataset=[task.examples[i] for i in order(task, epochs)],
        optimizers=(make_optimizer(task), None),
        callbacks=[stopwatch],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    parts = [loss.item() for loss in trainer.losses]
    steps = range(0, len(parts), accumulation)
    return stopwatch.seconds, [statistics.fmean(parts[i : i + accumulation]) for i in steps]


def order(task: Task, epochs: int) -> list[int]:
    """The examples of all epochs as `training.trajectory` takes them."""
    streams = (random_stream(0, ORDER, epoch) for epoch in range(1, epochs + 1))
    return [int(i) for stream in streams for i in stream.permutation(len(task.examples))]


def padding(task: Task, batch_size: int, micro_batch_size: int, epochs: int, by_length: bool) -> float:
    """The share of padding among the tokens that the encoder and the decoder see."""
    examples, cells, tokens = order(task, epochs), 0, 0
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        batch = sorted(batch, key=task.length) if by_length else batch
        for first in range(0, len(batch), micro_batch_size):
            inputs = task.collate([task.examples[i] for i in batch[first : first + micro_batch_size]])
            cells += inputs["attention_mask"].numel() + inputs["labels"].numel()
            tokens += int(inputs["attention_mask"].sum() + (inputs["labels"] != -100).sum())
    return 1 - tokens / cells


def measure(machine: Machine, task: Task, sizes: tuple[int, int, int], rounds: int, methods: Sequence) -> dict:
    """What is measured of one row of the table. The methods take turns in going first, after a round that does not
    count. Without the Trainer, its columns are empty."""
    state = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    seconds, differences = {method: [] for method in methods}, []
    for round_ in range(rounds + 1):
        losses = {}
        for method in methods if round_ % 2 else methods[::-1]:
            task.model.load_state_dict(state)
            spent, losses[method] = method(machine, task, *sizes)
            if round_ > 0:
                seconds[method].append(spent)
        if theirs in methods:
            pairs = zip(losses[ours], losses[theirs], strict=True)
            differences += [abs(a / b - 1) for a, b in pairs]
    examples = len(task.examples) * sizes[-1]
    found = dict(
        ours_per_second=examples / statistics.median(seconds[ours]),
        trainer_per_second="",
        ratio="",
        loss_difference="",
        padding=padding(task, *sizes, by_length=True),
        trainer_padding=padding(task, *sizes, by_length=False),
    )
    if theirs in methods:
        found["trainer_per_second"] = examples / statistics.median(seconds[theirs])
        found["ratio"] = statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))
        found["loss_difference"] = max(differences)
    return found


def versions(machine: Machine) -> dict:
    at_hand = {"torch": torch.__version__, "transformers": transformers.__version__, "accelerate": ""}
    if not missing(PEER):
        import accelerate

        at_hand["accelerate"] = accelerate.__version__
    return dict(cpu=machine.name, cores=os.cpu_count(), **at_hand)


def add_to_csv(path: Path, row: dict) -> None:
    """Replace the row of the same size, data, batch and threads, or append it."""
    write(path, [old for old in read(path) if any(old[k] != str(row[k]) for k in KEY)] + [row])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="toy")
    parser.add_argument("--dataset", default="toy", help="a local file of pairs, or toy")
    parser.add_argument("--examples", type=int, help="an epoch's")
    parser.add_argument(
        "--batch_size", type=int, help="of all micro-batches; more of them share out the lengths better"
    )
    parser.add_argument("--without_missing", action="store_true", help="ours alone where accelerate is not installed")
    add_flags(parser, threads=os.cpu_count() or 1)
    args = parser.parse_args(arguments)
    if not args.without_missing:
        require(PEER, "benchmarks.training")
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    prepare_machine()
    machine = Machine(args.device, args.output)
    num_examples, *sizes = SIZES[args.size]
    num_examples = args.examples or num_examples
    sizes[0] = args.batch_size or sizes[0]
    if num_examples % sizes[0] or sizes[0] % sizes[1]:  # the Trainer's accumulation knows whole batches only
        parser.error(f"--batch_size is a divisor of {num_examples} and a multiple of {sizes[1]}, got {sizes[0]}")
    task = make_task(args.size, args.dataset, num_examples)
    task.model.to(machine.device)
    methods = [ours] if missing(PEER) else [ours, theirs]
    head = dict(size=args.size, data=Path(args.dataset).parent.name or args.dataset, threads=args.threads)
    head |= dict(examples=num_examples, batch=sizes[0], micro_batch=sizes[1], steps=num_examples * sizes[2] // sizes[0])
    found = head | measure(machine, task, sizes, args.rounds, methods)
    row = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found.items()}
    clock = "CPU" if machine.is_cpu and args.threads == 1 else "wall"
    row |= dict(clock=clock, rounds=args.rounds, **versions(machine))
    add_to_csv(machine.folder / "training.csv", row)
    for name, value in row.items():
        print(f"{name:20} {value}")
    print(f"\n{machine.folder / 'training.csv'}")


if __name__ == "__main__":
    main()
