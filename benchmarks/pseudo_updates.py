"""What the pseudo-updates of the 12 rows of the machine translation list cost beside a training iteration.

    python -m benchmarks.pseudo_updates            # t5-small's size; 8 GB of memory, minutes
    python -m benchmarks.pseudo_updates --device cuda --examples 128

The iteration is that of the paper: batch 1,024 on t5-small. Its time is extrapolated: 128 times a forward and backward
pass of 8 examples of 64 + 64 tokens, and Adam's step once. A GPU has less idle time with more examples per pass. The
pseudo-updates cost the same at any batch size. Random weights and the gradients of that pass. Prints one table and
writes it to results/<machine>/pseudo_updates.csv (with other sizes in its name); times are medians of rounds in which
the three take turns."""

import argparse
from collections.abc import Sequence

import torch

from algorithm_list import ALGORITHM_LISTS
from benchmarks._machine import add_flags, start
from landscape_utils import PseudoUpdates
from torch_optimizer.rows import labeled

TOKENS, BATCH_SIZE = 64, 1024
SIZES = {"t5-small": {}, "tiny": dict(vocab_size=100, d_model=16, d_kv=4, d_ff=32, num_layers=1)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="t5-small")
    parser.add_argument("--examples", type=int, default=8, help="of a forward and backward pass")
    add_flags(parser)
    args = parser.parse_args(arguments)
    machine, examples = start(args), args.examples
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(decoder_start_token_id=0, pad_token_id=0, **SIZES[args.size])
    model = T5ForConditionalGeneration(config).to(machine.device)
    ids = torch.randint(2, config.vocab_size, (2, examples, TOKENS)).to(machine.device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-9)

    def forward_backward():
        model.zero_grad(set_to_none=False)
        model(input_ids=ids[0], labels=ids[1]).loss.backward()

    rows = labeled(ALGORITHM_LISTS["machine_translation"])
    updates = PseudoUpdates(dict(model.named_parameters()), rows)
    forward_backward()
    times = machine.medians(
        {
            "forward and backward": forward_backward,
            "Adam's step": adam.step,
            "all 12 pseudo-updates": lambda: updates.advance(collect=False),
        },
        args.rounds,
    )
    passes, step, together = times.values()
    iteration = passes * BATCH_SIZE / examples + step
    table = [
        dict(what=f"forward and backward, {examples} examples", seconds=passes),
        dict(what=f"training iteration, batch {BATCH_SIZE} (extrapolated)", seconds=iteration),
        dict(what=f"{len(rows)} pseudo-updates", seconds=together),
    ]
    table = [dict(row, percent_of_iteration=100 * row["seconds"] / iteration) for row in table]
    note = f"{examples} examples of {TOKENS} + {TOKENS} tokens times {BATCH_SIZE / examples:g}; {args.rounds} rounds"
    size = {"t5-small": "", "tiny": "_tiny"}[args.size] + ("" if examples == 8 else f"_{examples}_examples")
    machine.report(f"pseudo_updates{size}", table, note)


if __name__ == "__main__":
    main()
