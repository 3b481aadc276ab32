"""Time the largest eigenvalue of the Hessian blocks of a small RoBERTa: our way and three others, side by side.

    pip install --no-deps curvlinops-for-pytorch pyhessian einops einconv linear-operator scipy   # the others
    python -m benchmarks.hessian                  # the second paper's selection of tensors; minutes on 2 cores
    python -m benchmarks.hessian --tensors all    # every tensor, biases and embeddings included
    python -m benchmarks.hessian --device cuda --without_missing   # beside those of the others that are installed

Writes results/<machine>/hessian_<tensors>.csv: seconds, products and relative error of each method, round and tensor.
The methods take turns tensor by tensor, so a change of the machine's pace meets all of them. The table sums over
tensors and takes the median over rounds; ours includes its gradient graph, built once per round. With one thread the
seconds are of CPU time, which other programs on the machine disturb least.

The tolerances mean different things: ours bounds the residual, whose square decides the error; power iteration's is the
change of the value in one step, which says little about the error. So ours is timed at the same number. It is timed
once more at --loose_tolerance, where its errors come near those of power iteration.

An error is relative to the eigenvalue, against ours in float64 with a tolerance of 1e-8. PyHessian knows only the
eigenvalue of largest magnitude, so for it a large error also means that this one is negative. Ours finds both. Tensors
whose block vanishes (the keys' biases, which softmax cancels) are left out."""

import argparse
import gc
import re
import statistics
from collections.abc import Sequence

import torch

from benchmarks._machine import CPU, Machine, add_flags, missing, require, start, write
from hessian.blocks import block_curvatures

SELECTIONS = {
    # arXiv:2502.00213's code: weights of the first, a middle and the last layer, and of the head
    "paper": re.compile(
        r"layer\.[023]\.(attention\.self\.(query|key|value)|attention\.output\.LayerNorm|intermediate\.dense"
        r"|output\.(dense|LayerNorm))\.weight|classifier\.out_proj\.weight"
    ),
    "all": re.compile(r"^(?!.*key\.bias)"),
}


class Problem:
    """A RoBERTa of four layers and one batch: which third of the vocabulary is the first token from?"""

    def __init__(self, batch_size: int, length: int, layers: int = 4, device: torch.device = CPU):
        from transformers import RobertaConfig, RobertaForSequenceClassification

        torch.manual_seed(0)
        config = RobertaConfig(
            vocab_size=2000,
            hidden_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=length + 2,
            num_labels=3,
            attn_implementation="eager",
        )
        self.model = RobertaForSequenceClassification(config).to(device)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        for step in range(31):
            self.inputs = torch.randint(3, 2000, (batch_size, length)).to(device)  # [B, T]
            self.labels = self.inputs[:, 0] * 3 // 2000  # [B]
            if step < 30:
                optimizer.zero_grad()
                self.losses(dict(self.model.named_parameters()), {}).mean().backward()
                optimizer.step()
        optimizer.zero_grad()
        self.model.eval()
        self.forget_graph()

    def losses(self, params, _batch):
        logits = torch.func.functional_call(self.model, params, (self.inputs,)).logits
        return torch.nn.functional.cross_entropy(logits, self.labels, reduction="none")

    def forget_graph(self):
        """Drop what `backward(create_graph=True)` leaves on the parameters: a cycle that nothing else breaks."""
        for p in self.model.parameters():
            p.grad = None
        gc.collect()


def paper(problem: Problem, name: str, tolerance: float) -> tuple[float, int]:
    """arXiv:2502.00213's released method, restated: for each tensor a fresh gradient graph of all parameters, then
    power iteration until the value changes by less than `tolerance`; while negative, deflate and repeat, at most five
    times."""
    x = problem.model.get_parameter(name)
    problem.losses(dict(problem.model.named_parameters()), {}).mean().backward(create_graph=True)
    values, vectors, products = [], [], 0
    while len(values) < 5 and not (values and values[-1] > 0):
        value, v = None, torch.randn_like(x)
        for _ in range(100):
            for u in vectors:
                v = v - (u * v).sum() * u
            v = v / (v.norm() + 1e-6)
            (hv,) = torch.autograd.grad(x.grad, x, v, retain_graph=True)
            products += 1
            new = (hv * v).sum().item()
            if value is not None and abs(new - value) / (abs(value) + 1e-6) < tolerance:
                break
            value, v = new, hv
        values.append(value)
        vectors.append(v / (v.norm() + 1e-6))
    return max(values), products


def pyhessian(problem: Problem, name: str, tolerance: float) -> tuple[float, None]:
    """The library's power iteration, on a model of which only one tensor may be differentiated."""
    from pyhessian import hessian

    for other, p in problem.model.named_parameters():
        p.requires_grad_(other == name)
    data, on_gpu = (problem.inputs, problem.labels), problem.inputs.is_cuda
    measured = hessian(Logits(problem.model), torch.nn.functional.cross_entropy, data=data, cuda=on_gpu)
    (value,), _ = measured.eigenvalues(maxIter=100, tol=tolerance)
    problem.model.requires_grad_(True)
    return value, None


def curvlinops_eigsh(problem: Problem, name: str, tolerance: float) -> tuple[float, int]:
    """curvlinops' Hessian operator of one tensor, and scipy's Lanczos for its algebraically largest eigenvalue."""
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    block = HessianLinearOperator(
        Logits(problem.model),
        torch.nn.CrossEntropyLoss(),
        [problem.model.get_parameter(name)],
        [(problem.inputs, problem.labels)],
        check_deterministic=False,
    ).to_scipy()
    products = 0

    def matvec(v):
        nonlocal products
        products += 1
        return block @ v

    counted = LinearOperator(block.shape, matvec, dtype=block.dtype)
    return eigsh(counted, k=1, which="LA", tol=tolerance, return_eigenvectors=False).item(), products


class Logits(torch.nn.Module):
    """The model as a map from tokens to logits, the form that the libraries expect."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(inputs).logits


CURVLINOPS_NEEDS = {
    "curvlinops": "curvlinops-for-pytorch",
    "einops": "einops",
    "einconv": "einconv",
    "linear_operator": "linear-operator",
    "scipy": "scipy",
}
OTHERS = {  # name -> (method, the modules that it needs)
    "paper": (paper, {}),
    "PyHessian": (pyhessian, {"pyhessian": "pyhessian"}),
    "curvlinops + eigsh": (curvlinops_eigsh, CURVLINOPS_NEEDS),
}
OURS = ("ours", "ours, loose tolerance")


def measure_round(
    machine: Machine,
    problem: Problem,
    names: list[str],
    tolerances: tuple[float, float],
    exact: dict[str, float],
    others: Sequence[str],
) -> list[dict]:
    """`tolerances`: of all methods, and of ours when loose."""
    params = {name: p.detach() for name, p in problem.model.named_parameters()}
    rows, running = [], {}
    for label, tolerance in zip(OURS, tolerances, strict=True):
        seconds, running[label] = machine.timed(
            lambda tol=tolerance: block_curvatures(problem.losses, params, [{}], names, tolerance=tol)
        )
        rows.append(dict(method=label, tensor="gradient graph", seconds=seconds, products=0, error=""))
    for name in names:
        for label in (*OURS, *others):
            if label in OURS:
                seconds, block = machine.timed(next, running[label])
                value, products = block.eigenvalue, block.products
            else:
                seconds, (value, products) = machine.timed(OTHERS[label][0], problem, name, tolerances[0])
            error = abs(value / exact[name] - 1)
            rows.append(dict(method=label, tensor=name, seconds=seconds, products=products, error=error))
            problem.forget_graph()
    return rows


def exact_eigenvalues(problem: Problem, names: list[str]) -> dict[str, float]:
    problem.model.double()
    params = {name: p.detach() for name, p in problem.model.named_parameters()}
    blocks = list(block_curvatures(problem.losses, params, [{}], names, tolerance=1e-8, max_iterations=300))
    problem.model.float()
    assert all(block.converged for block in blocks)
    return {block.name: block.eigenvalue for block in blocks}


def print_table(rounds: list[list[dict]], others: Sequence[str]) -> None:
    medians = {
        label: statistics.median(sum(row["seconds"] for row in rows if row["method"] == label) for rows in rounds)
        for label in (*OURS, *others)
    }
    print(f"{'method':22} {'seconds':>9} {'ratio':>7} {'products':>9} {'median error':>13} {'largest':>9}")
    for label, seconds in medians.items():
        rows = [row for row in rounds[-1] if row["method"] == label]
        products = "" if rows[-1]["products"] is None else sum(row["products"] for row in rows)
        errors = [row["error"] for row in rows if row["error"] != ""]
        print(
            f"{label:22} {seconds:9.2f} {seconds / medians['ours']:7.2f} {products:>9} "
            f"{statistics.median(errors):13.1e} {max(errors):9.1e}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", choices=SELECTIONS, default="paper")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="each method's own stopping tolerance")
    parser.add_argument("--loose_tolerance", type=float, default=0.05, help="ours, once more")
    parser.add_argument("--batch_size", type=int, default=8, help="examples")
    parser.add_argument("--length", type=int, default=32, help="tokens per example")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--without_missing", action="store_true", help="leave out methods that are not installed")
    add_flags(parser, threads=2)
    args = parser.parse_args(arguments)
    if not args.without_missing:
        require(
            {name: package for _, needs in OTHERS.values() for name, package in needs.items()}, "benchmarks.hessian"
        )
    others = [label for label, (_, needs) in OTHERS.items() if not missing(needs)]
    machine = start(args)

    problem = Problem(args.batch_size, args.length, args.layers, machine.device)
    names = [name for name, _ in problem.model.named_parameters() if SELECTIONS[args.tensors].search(name)]
    exact = exact_eigenvalues(problem, names)
    tolerances = args.tolerance, args.loose_tolerance
    rounds = [measure_round(machine, problem, names, tolerances, exact, others) for _ in range(args.rounds)]

    path = machine.path(f"hessian_{args.tensors}")
    write(path, [{"round": number, **row} for number, rows in enumerate(rounds) for row in rows])
    print(f"{machine}\n{len(names)} tensors, {len(rounds)} rounds\n")
    print_table(rounds, others)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
