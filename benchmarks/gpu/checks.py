"""What a GPU computes beside the CPU: steps, thresholds, counts, slopes, scans, the same bits twice."""

import math
from collections.abc import Callable, Iterator

import torch

from algorithm_list import ALGORITHM_LISTS
from benchmarks.gpu.models import MODELS
from curvature import vhv_by_recording
from curvature.borrowing import measuring
from curvature.direction import Direction
from curvature.objective import Objective, objective_at
from landscape_core.edges import spectral_length
from landscape_utils import PseudoUpdates, directional_sharpness, mean_loss, update_histogram
from tasks.base import Task
from torch_optimizer import Algorithm
from torch_optimizer.clipping import clip_threshold
from torch_optimizer.rows import labeled
from training.loop import Training, TrainingPlan, micro_batches

EXAMPLES = 8
CPU = torch.device("cpu")
AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-9}  # of loss, slope and sharpness, relative


def correctness(device: torch.device, tiny: bool) -> list[dict]:
    """Rows (check, difference, allowed, passed), one per claim."""
    return [
        dict(check=name, difference=difference, allowed=allowed, passed=difference <= allowed)
        for name, difference, allowed in found(device, tiny)
    ]


def found(device: torch.device, tiny: bool) -> Iterator[tuple[str, float, float]]:
    here, there = with_gradients(CPU, tiny), with_gradients(device, tiny)
    for label, row in labeled(ALGORITHM_LISTS["machine_translation"]).items():
        ours, theirs = steps(row, here), steps(row, there)
        yield f"second step of {label}", largest_difference(theirs, ours), 1e-4
        yield f"histogram of {label}", float(histogram(theirs) != histogram(on(CPU, theirs))), 0
    grads = [p.grad for p in there.values()]
    for fraction in (0.05, 0.5, 0.99):
        exact = clip_threshold([g.cpu() for g in grads], fraction)
        yield f"threshold of {fraction:.0%} of a gradient", abs(clip_threshold(grads, fraction) - exact), 0
    v = {name: p.detach() for name, p in there.items()}
    yield "spectral length", relative(spectral_length(v), spectral_length(on(CPU, v))), 1e-4
    for name in MODELS:
        yield f"{name}: twelve directions together and one by one, float64", together(name, device, tiny), 1e-12
        yield f"{name}: cuDNN stays as it was while measuring", float(not keeps_cudnn(MODELS[name](2, tiny))), 0
        yield f"{name}: two trainings end in the same bits", float(not same_bits(name, device, tiny)), 0


def agreement(device: torch.device, tiny: bool) -> list[dict]:
    """Rows (model, dtype, what, difference, allowed, passed): the first point on this device beside the CPU's."""
    rows = []
    for name in MODELS:
        for dtype, allowed in AGREEMENT.items():
            ours, theirs = (numbers_at_first_point(MODELS[name](EXAMPLES, tiny), d, dtype) for d in (CPU, device))
            for what, value in ours.items():
                difference = max(relative(x, y) for x, y in zip(theirs[what], value, strict=True))
                passed = difference <= allowed
                kind = str(dtype).removeprefix("torch.")
                rows.append(
                    dict(model=name, dtype=kind, what=what, difference=difference, allowed=allowed, passed=passed)
                )
    return rows


# ---- pieces ---------------------------------------------------------------------------------------------------------


def relative(x: float, y: float) -> float:
    """|x - y| / |y|; infinite where one of them alone is not a number, as along a step that clipping has erased."""
    if math.isnan(x) and math.isnan(y):
        return 0.0
    difference = abs(x - y)
    return math.inf if math.isnan(difference) else difference / max(abs(y), 1e-300)


def on(device: torch.device, tensors: dict[str, torch.Tensor] | Direction) -> dict[str, torch.Tensor]:
    return {name: t.to(device) for name, t in tensors.items()}


def histogram(v: dict[str, torch.Tensor] | Direction) -> list:
    return update_histogram(v)


def largest_difference(v: Direction, w: Direction) -> float:
    """Of two directions, over the largest coordinate."""
    return max((v[name].cpu() - t).abs().max().item() for name, t in w.items()) / max(w.largest, 1e-300)


def with_gradients(device: torch.device, tiny: bool) -> dict[str, torch.nn.Parameter]:
    generator, size = torch.Generator().manual_seed(0), 20 if tiny else 1000
    params = {}
    for name, shape in {"a": (size, size), "b": (size,), "c": (3, size, 5)}.items():
        params[name] = torch.nn.Parameter(torch.randn(shape, generator=generator).to(device))
        params[name].grad = torch.randn(shape, generator=generator).to(device)
    return params


def steps(row: Algorithm, params: dict[str, torch.nn.Parameter]) -> Direction:
    updates = PseudoUpdates(params, {"row": row})
    updates.advance()
    return updates.advance()["row"]


def objective_of(task: Task, device: torch.device, dtype: torch.dtype) -> Objective:
    task.model.to(device)
    (batch,) = micro_batches(task, range(len(task.examples)), len(task.examples), device, dtype)
    return objective_at(task.model, task.losses, [batch], dtype)


def random_directions(objective: Objective, count: int) -> list[Direction]:
    generator = torch.Generator().manual_seed(0)
    return [
        Direction({n: torch.randn(p.shape, generator=generator).to(p) for n, p in objective.params.items()})
        for _ in range(count)
    ]


def together(name: str, device: torch.device, tiny: bool) -> float:
    """Largest difference of a curvature, over its magnitude."""
    objective = objective_of(MODELS[name](2, tiny), device, torch.float64)
    directions = random_directions(objective, 12)
    with measuring(objective.model):
        one, all_ = (
            vhv_by_recording(objective.loss_fn, objective.params, directions, objective.batches[0], together=size)
            for size in (1, 12)
        )
    return ((all_.curvatures - one.curvatures).abs() / one.magnitudes).max().item()


def keeps_cudnn(task: Task) -> bool:
    before = torch.backends.cudnn.enabled
    with measuring(task.model):
        return torch.backends.cudnn.enabled == before


def same_bits(name: str, device: torch.device, tiny: bool) -> bool:
    def trained() -> list[torch.Tensor]:
        task = MODELS[name](EXAMPLES, tiny)
        task.model.to(device)
        optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-3)
        for _ in (training := Training(task, optimizer, TrainingPlan(2, EXAMPLES // 2, 2))):
            training.step()
        return [p.detach().cpu() for p in task.model.parameters()]

    return all(torch.equal(p, q) for p, q in zip(trained(), trained(), strict=True))


def numbers_at_first_point(task: Task, device: torch.device, dtype: torch.dtype) -> dict[str, list[float]]:
    """Loss, slopes and sharpness along the steps of the twelve rows, and losses along the first one. The steps are
    those of the CPU's gradient, so that only the measurement differs."""
    cpu = objective_of(task, CPU, torch.float32)
    task.model.eval()
    task.losses(task.model, cpu.batches[0]).mean().backward()
    params = dict(task.model.named_parameters())
    steps_of_cpu = PseudoUpdates(params, labeled(ALGORITHM_LISTS["machine_translation"])).advance()
    task.model.zero_grad(set_to_none=True)
    objective = objective_of(task, device, dtype)
    directions = [Direction(on(device, v)) for v in steps_of_cpu.values()]
    with measuring(objective.model):
        quadratics = directional_sharpness(objective.loss_fn, objective.params, directions, objective.batches)
        u = dict(directions[0].unit(like=objective.params))
        moved: Callable = lambda s: {n: p + s * u[n] for n, p in objective.params.items()}  # noqa: E731
        losses = [mean_loss(objective.loss_fn, moved(s), objective.batches) for s in (0.0, 1e-3, 1e-2)]
    return dict(
        loss=[q.loss for q in quadratics],
        slope=[q.slope for q in quadratics],
        sharpness=[q.sharpness for q in quadratics],
        scan=losses,
    )
