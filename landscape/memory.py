"""How much memory run_landscape.py needs: everything that takes much is done once, on a copy of the model."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from curvature.borrowing import measuring
from curvature.direction import Direction
from curvature.lanczos import TRIED_PRODUCTS
from curvature.objective import Batch, Objective, objective_at, trainable_parameters
from curvature.quadratic import QuadraticModel
from curvature.together import PAIR
from hessian.tensor_names import grouped
from landscape.at_once import examples_at_once
from landscape.clip_sweep import FRACTIONS
from landscape.decomposition import slopes_and_curvatures
from landscape.plan import Plan, most_of_training_batch, test_examples
from landscape.sharded import AT_HAND
from landscape.top_eigenvalues import Stability, stability_of, top_eigenvalues
from landscape_core.edges import loss_at
from landscape_core.gradients import noise_coordinates
from landscape_core.measurement import quadratic_models
from landscape_core.rounding import rounding_errors
from landscape_utils import PseudoUpdates
from runs.estimate import Part
from tasks.base import Task
from torch_optimizer.next_step import next_step
from torch_optimizer.shadow_step import ShadowStep
from training.loop import examples_of_batch, gradient_of_batch, groups_of, micro_batches
from training.memory import (
    held_and_peak,
    largest,
    model_bytes,
    peak_bytes,
    peak_of_gradient,
    size_of,
    stand_ins,
    state_bytes,
    with_random_gradients,
)
from training.timing import trainable, trial_of

TRAINING, MEASURING, STORING = "training", "measuring", "storing"  # times; what is held in one leaves room in others
CPU = "cpu"
TRIED_BATCHES = 4  # micro-batches, where a product with the Hessian is tried


@torch.random.fork_rng(devices=[])
def held_in_memory(task: Task, plan: Plan) -> list[Part]:
    """What is counted without running anything: model, gradients, states and directions."""
    settings, params = plan.settings, trainable(task.model)
    here, there = str(settings.device), str(settings.optimizer_device or settings.device)
    size, model = size_of(params), model_bytes(task.model)
    parts = [Part("model", nbytes=model, device=here)]
    count = own_rows = len(plan.pseudo_rows)
    of_count = f"{count}"
    if not settings.from_points:
        parts.append(Part("gradients", nbytes=size, device=here))
        tiny = stand_ins(params)
        optimizer = plan.train_row.build(tiny)
        optimizer.step()
        own = state_bytes(optimizer, list(tiny.values()), list(params.values()))
        parts.append(Part("state of the optimizer that trains", nbytes=own, device=here))
        states = pseudo_state_bytes(plan, params)
        own_states, own_bytes, own_rows = of_fullest(plan, params, states)
        of_states = f"{len(states)}" if own_states == len(states) else f"{own_states} of {len(states)}"
        of_count = f"{count}" if own_rows == count else f"{own_rows} of {count}"
        mirrors = 0 if here == there else 2 * size  # parameters and gradients are copied there
        parts.append(Part(f"{of_states} states of {count} rows", nbytes=own_bytes + mirrors, device=there))
        stored = model + own + sum(states.values())
        parts.append(Part("copy of all that for a checkpoint", nbytes=stored, device=CPU, during=STORING))
    parts.append(Part(f"{of_count} directions", nbytes=own_rows * size, device=there, during=MEASURING))
    if own_rows < count:
        others = min(AT_HAND, count) * size
        parts.append(Part("directions of other ranks", nbytes=others, device=there, during=MEASURING))
    if has_parts(plan) and here != there:
        parts.append(Part("parts of SGD's step", nbytes=parts_of_sgd(size), device=there, during=MEASURING))
    parts.append(Part("direction of the optimizer that trains", nbytes=size, device=here, during=MEASURING))
    if plan.measuring.dtype == torch.float64:
        parts.append(Part("model in float64", nbytes=2 * model, device=here, during=MEASURING))
    return parts


def of_fullest(plan: Plan, params: Mapping[str, Tensor], states: Mapping[str, int]) -> tuple[int, int, int]:
    """(states, their bytes, rows) of the rank that holds most; all of them without --shard.

    states: of `pseudo_state_bytes`."""
    kept = PseudoUpdates(stand_ins(params), plan.pseudo_rows).states
    first = {id(kept[label]): label for label in states}
    rows = Counter(first[id(state)] for state in kept.values())
    world = plan.ranks.world if plan.settings.shard else 1
    by_rank: list[list[str]] = [[] for _ in range(world)]
    for place, label in enumerate(states):
        by_rank[place % world].append(label)
    held = [(len(own), sum(states[n] for n in own), sum(rows[n] for n in own)) for own in by_rank]
    return max(held, key=lambda one: one[1] + one[2] * size_of(params))


def distinct(updates: PseudoUpdates) -> list[str]:
    """The first label of each state that is kept."""
    first = {}
    for label, state in updates.states.items():
        first.setdefault(id(state), label)
    return list(first.values())


def pseudo_state_bytes(plan: Plan, params: Mapping[str, Tensor]) -> dict[str, int]:
    """First label of each distinct state -> its bytes on `params`."""
    tiny = stand_ins(params)
    updates = PseudoUpdates(tiny, plan.pseudo_rows)
    updates.advance(collect=False)
    nbytes, full = {}, list(params.values())
    for label in distinct(updates):
        state = updates.states[label]
        if isinstance(state, ShadowStep):  # it steps on copies of parameters and gradients
            nbytes[label] = state_bytes(state.optimizer, state.copies, full) + 2 * size_of(params)
        else:
            nbytes[label] = state_bytes(state, list(tiny.values()), full)
    return nbytes


# ---- tried ----------------------------------------------------------------------------------------------------------


def held_for_a_moment(task: Task, plan: Plan) -> list[Part]:
    """What the part of a run that takes most holds beyond all that, in training and at a measured point. Raises where
    memory runs out."""
    settings, here = plan.settings, str(plan.settings.device)
    steps: dict[str, int] = {}
    parts = []
    with trial_of(task, settings.device) as trial:
        if not settings.from_points:
            parts.append(
                Part("one micro-batch", nbytes=peak_of_gradient(trial, plan.training), device=here, during=TRAINING)
            )
            steps["the next step"] = of_next_step(trial, plan)
    with trial_of(task, settings.device) as trial:
        stages = {**steps, **of_measuring(trial, plan)}
    if stages:
        name = max(stages, key=stages.__getitem__)
        parts.append(Part(name, nbytes=stages[name], device=here, during=MEASURING))
    return parts


def of_next_step(trial: Task, plan: Plan) -> int:
    """Bytes that finding the next step of the run's own optimizer takes, beyond its direction."""
    params, device = with_random_gradients(trainable(trial.model)), plan.settings.device
    optimizer = plan.train_row.build(params)
    optimizer.step()
    own = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return peak_bytes(lambda: next_step(optimizer, params), device, own) - size_of(params)


def of_measuring(trial: Task, plan: Plan) -> dict[str, int]:
    """What is done at a measured point -> bytes that it takes."""
    settings, device, how = plan.settings, plan.settings.device, plan.measuring
    objective = objective_at(trial.model, trial.losses, [largest_batch(trial, plan)], how.dtype)
    size, of_point = size_of(trainable(trial.model)), size_of(objective.params)
    place = settings.optimizer_device or device
    v = Direction({name: torch.randn_like(p).to(place) for name, p in trainable_parameters(trial.model).items()})
    own = [*objective.model.parameters(), *objective.model.buffers()]
    stability = stability_at_first_point(trial, plan) if settings.top_eigenvalues else None
    noisy, stages = 0, {}
    if how.sharpness and how.details:
        noisy, stages["the share of noise"] = held_and_peak(lambda: noise_coordinates(objective), device, own)
    with measuring(objective.model):
        stages["the loss along a step"] = 2 * of_point + peak_bytes(lambda: loss_at(objective), device)
        count = PAIR if device.type == CPU else len(plan.algorithms) + 1  # a CPU pushes pairs, however many there are
        several = {str(number): v for number in range(count)}
        recording = peak_bytes(lambda: quadratic_models(several, objective), device)
        stages["a recording and its tangents"] = recording
        if noisy and how.dtype == torch.float32:
            found = dict.fromkeys(several, QuadraticModel(1.0, 1.0, 1.0, 1.0))
            stages["the rounding errors"] = peak_bytes(lambda: rounding_errors(several, found, objective), device, own)
        if settings.decompose:
            groups = grouped(objective.params, settings.decompose)
            stages["the decomposition"] = peak_bytes(lambda: slopes_and_curvatures({"v": v}, groups, objective), device)
        if stability is not None:
            several_batches, inverse = with_several_batches(objective, trial, plan), size_of(stability.inverse or {})
            tried = peak_bytes(lambda: top_eigenvalues(several_batches, stability, TRIED_PRODUCTS), device)
            stages["the largest eigenvalues"] = inverse + tried
    if has_parts(plan) and place == device:
        stages["the parts of SGD's step"] = parts_of_sgd(size) + recording
    with_noise = "the loss along a step", "a recording and its tangents", "the rounding errors"
    return {name: nbytes + (noisy if name in with_noise else 0) for name, nbytes in stages.items()}


def has_parts(plan: Plan) -> bool:
    """Whether the clip sweep takes SGD's step apart."""
    return any(one.row.name == "sgd" for one in plan.swept.values())


def parts_of_sgd(size: int) -> int:
    """Their bytes, of a step of `size`."""
    return 2 * (len(FRACTIONS) - 1) * size


def largest_batch(trial: Task, plan: Plan) -> Batch:
    """The micro-batch that takes most of those that are measured from the first seed."""
    settings, most = plan.settings, most_of_training_batch(plan.settings)
    size = examples_at_once(trial, settings, plan.measuring.dtype)
    chosen = [test_examples(trial, settings)]
    if plan.measuring.sharpness and not settings.from_points:
        places = [(epoch, batch) for epoch, (batches, _) in plan.sampled.items() for batch in batches]
        chosen += [examples_of_batch(plan.training, len(trial.examples), *place)[:most] for place in places]
    groups = [group for indices in chosen for group in groups_of(trial, indices, size)]
    group = largest(groups, trial.length)
    (batch,) = micro_batches(trial, group, len(group), settings.device, plan.measuring.dtype)
    return batch


def with_several_batches(objective: Objective, trial: Task, plan: Plan) -> Objective:
    """On the last micro-batches of the test batch: how many products an eigenvalue takes depends on the examples."""
    settings, dtype = plan.settings, plan.measuring.dtype
    size = examples_at_once(trial, settings, dtype)
    groups = groups_of(trial, test_examples(trial, settings), size)[-TRIED_BATCHES:]
    batches = [batch for group in groups for batch in micro_batches(trial, group, len(group), settings.device, dtype)]
    return replace(objective, batches=batches)


def stability_at_first_point(trial: Task, plan: Plan) -> Stability:
    """As the run finds it, from the gradient of a part of that training batch; or of the test batch, where the run
    trains nothing."""
    settings, examples = plan.settings, len(trial.examples)
    places = [] if settings.from_points else [(epoch, batches[0]) for epoch, (batches, _) in plan.sampled.items()]
    chosen = examples_of_batch(plan.training, examples, *min(places)) if places else test_examples(trial, settings)
    gradient_of_batch(trial, chosen[: TRIED_BATCHES * settings.micro_batch_size], 1, plan.training, trial.model)
    params = trainable(trial.model)
    return stability_of(plan.train_row.build(params), params, lr=1.0)
