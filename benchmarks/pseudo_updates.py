"""What the pseudo-updates of the 12 rows of the machine translation list cost beside a training iteration.

    python -m benchmarks.pseudo_updates            # t5-small's size; 8 GB of memory, minutes

The iteration is that of the paper: batch 1,024 on t5-small. Its time is extrapolated: 128 times a forward and backward
pass of 8 examples of 64 + 64 tokens, and Adam's step once. The pseudo-updates cost the same at any batch size. Random
weights and the gradients of that pass. Prints one table and writes it to results/<machine>/pseudo_updates.csv; times
are medians of rounds in which the three take turns."""

import argparse

import torch

from algorithm_list import ALGORITHM_LISTS
from benchmarks._machine import medians, report, start
from landscape_utils import PseudoUpdates
from torch_optimizer.rows import labeled

EXAMPLES, TOKENS, BATCH_SIZE = 8, 64, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    start(args.threads)
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, pad_token_id=0))
    ids = torch.randint(2, model.config.vocab_size, (2, EXAMPLES, TOKENS))
    adam = torch.optim.Adam(model.parameters(), lr=1e-9)

    def forward_backward():
        model.zero_grad(set_to_none=False)
        model(input_ids=ids[0], labels=ids[1]).loss.backward()

    rows = labeled(ALGORITHM_LISTS["machine_translation"])
    updates = PseudoUpdates(dict(model.named_parameters()), rows)
    forward_backward()
    times = medians(
        {
            "forward and backward": forward_backward,
            "Adam's step": adam.step,
            "all 12 pseudo-updates": lambda: updates.advance(collect=False),
        },
        args.rounds,
    )
    passes, step, together = times.values()
    iteration = passes * BATCH_SIZE / EXAMPLES + step
    table = [
        dict(what=f"forward and backward, {EXAMPLES} examples", seconds=passes),
        dict(what=f"training iteration, batch {BATCH_SIZE} (extrapolated)", seconds=iteration),
        dict(what=f"{len(rows)} pseudo-updates", seconds=together),
    ]
    for row in table:
        row["percent_of_iteration"] = 100 * row["seconds"] / iteration
    note = f"{EXAMPLES} examples of {TOKENS} + {TOKENS} tokens times {BATCH_SIZE // EXAMPLES}; {args.rounds} rounds"
    report("pseudo_updates", table, note)


if __name__ == "__main__":
    main()
