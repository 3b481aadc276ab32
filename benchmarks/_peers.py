"""The other ways to v'Hv that benchmarks/sharpness.py measures. Each takes a problem and the directions it is timed on,
and returns the curvatures of the mean loss. `problem` has model, logits, loss_fn, params and batch."""

import torch
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad


def math_attention():
    return sdpa_kernel(SDPBackend.MATH)


def inner(product, v):
    return sum((h * dx).sum() for h, dx in zip(product, v, strict=True)).item()


def leaves_of(problem):
    return {n: p.detach().requires_grad_() for n, p in problem.params.items()}


def vhp(problem, v, batch):
    """torch.autograd.functional.vhp of one batch, as the paper's code calls it."""

    def mean(*tensors):
        return problem.loss_fn(dict(zip(problem.params, tensors, strict=True)), batch).mean()

    _, product = torch.autograd.functional.vhp(mean, tuple(problem.params.values()), tuple(v.values()))
    return inner(product, v.values())


def original(problem, directions):
    """The paper's method: one vhp per direction and example."""
    size = len(next(iter(problem.batch.values())))
    rows = [{k: t[i : i + 1] for k, t in problem.batch.items()} for i in range(size)]
    return [sum(vhp(problem, v, row) for row in rows) / size for v in directions]


def padded_original(problem, directions, length=512):
    """The same as the paper's code runs it, every input padded to `length` tokens; here the padding is masked."""
    ids, mask = problem.batch["input_ids"], problem.batch["attention_mask"]
    padding = (0, length - ids.shape[1])
    padded = dict(input_ids=pad(ids, padding), attention_mask=pad(mask, padding), labels=problem.batch["labels"])
    rows = [{k: t[i : i + 1] for k, t in padded.items()} for i in range(len(ids))]
    return [sum(vhp(problem, v, row) for row in rows) / len(rows) for v in directions]


def batched_vhp(problem, directions):
    return [vhp(problem, v, problem.batch) for v in directions]


def fresh_graph(problem, directions):
    """PyHessian's way: a new gradient graph for each direction."""
    return [shared_graph(problem, [v])[0] for v in directions]


def shared_graph(problem, directions):
    """Reverse over reverse: one gradient graph for all directions."""
    leaves = leaves_of(problem)
    grads = grad(problem.loss_fn(leaves, problem.batch).mean(), list(leaves.values()), create_graph=True)
    return [
        inner(grad(grads, list(leaves.values()), list(v.values()), retain_graph=True), v.values()) for v in directions
    ]


def forward_over_reverse(problem, directions):
    def gradient(params):
        return torch.func.grad(lambda p: problem.loss_fn(p, problem.batch).mean())(params)

    return [inner(torch.func.jvp(gradient, (problem.params,), (v,))[1].values(), v.values()) for v in directions]


def curvlinops(problem, directions):
    """The library's Hessian times the matrix of all directions."""
    from curvlinops import HessianLinearOperator

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = problem.model

        def forward(self, inputs):
            return problem.logits(self.model, inputs).flatten(0, 1)

    parameters = dict(problem.model.named_parameters())
    data = [(problem.batch, problem.batch["labels"].flatten())]
    hessian = HessianLinearOperator(
        Logits(),
        torch.nn.CrossEntropyLoss(),
        list(parameters.values()),
        data,
        check_deterministic=False,
        batch_size_fn=lambda inputs: inputs["labels"].numel(),
    )
    matrix = torch.stack([torch.cat([v[n].flatten() for n in parameters]) for v in directions], dim=1)  # [P, K]
    return (matrix * (hessian @ matrix)).sum(0).tolist()


PEERS = {  # name -> (method, directions it is timed on: all where it shares work between them)
    "original: vhp per example": (original, 1),
    "original, padded to 512 tokens": (padded_original, 1),
    "vhp, batched": (batched_vhp, 1),
    "fresh graph (PyHessian's way)": (fresh_graph, 1),
    "shared graph (reverse-over-reverse)": (shared_graph, None),
    "torch.func forward-over-reverse": (forward_over_reverse, 1),
    "curvlinops H @ matrix": (curvlinops, None),
}
