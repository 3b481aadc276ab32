"""The same small GPT-2 in the Trainer of transformers (4.45 or newer, with accelerate).

python examples/trainer_run.py
"""

import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from landscape_probe import LandscapeCallback

TEXT = "the loss bends less along the steps of one optimizer than along those of another. " * 40


def main(steps: int = 40, every: int = 20) -> list[dict]:
    tokens = torch.tensor(list(TEXT.encode()))
    examples = [{"input_ids": ids, "labels": ids} for ids in tokens.split(32) if len(ids) == 32]
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=128, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingArguments(folder, max_steps=steps, learning_rate=1e-3, report_to=[], use_cpu=True)
        trainer = Trainer(model, plan, train_dataset=examples)
        callback = LandscapeCallback(trainer, examples[:16], every=every)
        trainer.add_callback(callback)
        trainer.train()
    return callback.rows


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
