"""What run_landscape.py will do, how long that takes and how much memory it needs."""

import time
from dataclasses import dataclass

import torch

from curvature.borrowing import measuring
from curvature.direction import Direction
from curvature.memory import is_out_of_memory
from curvature.objective import objective_at
from curvature.quadratic import QuadraticModel
from landscape.at_once import examples_at_once
from landscape.clip_sweep import count_of_directions
from landscape.memory import distinct, held_for_a_moment, held_in_memory
from landscape.plan import Plan, most_of_training_batch, planned_parts, test_examples
from landscape_core.gradients import noise_coordinates
from landscape_core.rounding import rounding_errors
from landscape_utils import PseudoUpdates, directional_sharpness, mean_loss
from runs.estimate import LEFT_OUT, NO_TIME, Estimate, Part, free_for_run
from runs.tables import TEST
from tasks.base import Task
from training.loop import batches_per_epoch, groups_of, micro_batches
from training.memory import model_bytes, stand_ins, with_random_gradients
from training.timing import (
    Clock,
    gradient_seconds,
    middle,
    middle_micro_batch,
    second_time,
    seconds,
    trainable,
    trial_of,
)

EVALUATIONS = {"few": 8, "full": 20}  # of the loss, per scan
PER_DECOMPOSITION = 5  # times a measurement of slope and sharpness
TIMED = "estimated from one timed micro-batch of {} examples, its recording and the directions along it"


@dataclass(frozen=True)
class Pace:
    """Seconds, as timed on one micro-batch."""

    gradient: float  # forward and backward pass in training, per example
    states: float  # the run's own step and the states of all rows, per update
    forward: float  # per example
    recording: float  # per example
    direction: float  # per example and direction
    noise: float  # finding the coordinates of noise, per point
    rounding: float  # bound of the rounding errors, per direction and point; as much again per point

    def of_sharpness(self, examples: int, directions: int) -> float:
        return examples * (self.recording + directions * self.direction)


# ---- counting -----------------------------------------------------------------------------------------------------


def estimate(task: Task, plan: Plan, memory: bool = True, clock: Clock = time.perf_counter) -> Estimate:
    """Of the whole run, on copies of the model.

    Args:
        task: with its model on the CPU.
        memory: False leaves it out.
        clock: tells the seconds.
    """
    settings = plan.settings
    indices = middle_micro_batch(task, plan.training)
    held: list[Part] = []
    free = {}
    if memory:
        devices = dict.fromkeys([settings.device, settings.optimizer_device or settings.device, torch.device("cpu")])
        free = free_for_run(devices, model_bytes(task.model))
    try:
        pace = paced(task, plan, indices, clock)
        moment = held_for_a_moment(task, plan) if memory else []
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        pace, moment = None, []
    if memory:
        held = [*held_in_memory(task, plan), *moment]
    if pace is None:
        basis = NO_TIME.format(len(indices), settings.device)
    else:
        eigenvalues = ", largest eigenvalues" if settings.top_eigenvalues else ""
        basis = f"{TIMED.format(len(indices))}, {LEFT_OUT.format(eigenvalues)}"
    return Estimate([*counted(plan, len(task.examples), pace), *held], free, basis)


def counted(plan: Plan, examples: int, pace: Pace | None) -> list[Part]:
    """What is done, with its time where there is a pace; `examples` of the data."""
    settings, seeds = plan.settings, len(plan.seeds)
    of_seeds = [list(planned_parts(plan, examples, seed)) for seed in plan.seeds]
    parts = [part for of_seed in of_seeds for part in of_seed]
    updates = seeds * plan.training.num_epochs * batches_per_epoch(examples, plan.training.batch_size)
    directions = classes = decomposed = scans = swept = 0
    of_directions = of_classes = of_decomposition = of_scans = of_sweep = 0.0
    for batch, measured, how in parts:
        size, count = examples_of_part(plan, batch), len(measured.directions)
        along = pace.of_sharpness(size, count) if pace else 0.0
        forwards = (1 + count * plan.measuring.sharpness) * size  # at the point, and where each step goes
        directions += count
        of_directions += along
        if pace:
            of_directions += forwards * pace.forward
            if how.sharpness and how.details:
                of_directions += size * pace.gradient + pace.noise
                of_directions += (1 + count) * pace.rounding * (how.dtype == torch.float32)
        if settings.decompose:
            decomposed += count
            of_decomposition += PER_DECOMPOSITION * along
        if batch == TEST:
            classes += count * len(plan.classes)
            of_classes += along * len(plan.classes)
        if measured.scan and plan.swept:
            swept += count_of_directions(plan.swept)
            of_sweep += pace.of_sharpness(size, count_of_directions(plan.swept)) if pace else 0.0
        if measured.scan and how.scans:
            scans += count
            of_scans += count * EVALUATIONS[settings.scan] * size * pace.forward if pace else 0.0
    training = pace and seeds * plan.training.num_epochs * examples * pace.gradient + updates * pace.states
    counts = [] if settings.from_points else [Part("updates", updates, training)]
    points = sum(len({measured.point.iteration for _, measured, _ in of_seed}) for of_seed in of_seeds)
    counts += [Part("measured points", points), Part("directions measured", directions, of_directions)]
    counts += [Part("directions decomposed", decomposed, of_decomposition)] if settings.decompose else []
    counts += [Part("directions measured per class", classes, of_classes)] if plan.classes else []
    counts += [Part("directions of the clip sweep", swept, of_sweep)] if plan.swept else []
    counts += [Part(f"loss scans of about {EVALUATIONS[settings.scan]} evaluations", scans, of_scans)] if scans else []
    return counts if pace else [Part(part.what, part.number) for part in counts]


def examples_of_part(plan: Plan, batch: str) -> int:
    """How many examples are measured on."""
    if batch == TEST:
        return plan.settings.test_batch_size
    most = most_of_training_batch(plan.settings)
    return plan.training.batch_size if most is None else min(most, plan.training.batch_size)


# ---- timing -------------------------------------------------------------------------------------------------------


def paced(task: Task, plan: Plan, indices: list[int], clock: Clock) -> Pace:
    """Every part once, on one micro-batch: of training the examples `indices`, else one of the test batch."""
    device = plan.settings.device
    with trial_of(task, device) as trial:
        gradient = 0.0
        states = 0.0
        if not plan.settings.from_points:
            gradient = gradient_seconds(trial, plan.training, indices, clock) / len(indices)
            states = states_seconds(trial, plan, clock)
        measured = measured_micro_batch(trial, plan)
        size = len(measured)
        (batch,) = micro_batches(trial, measured, size, device, plan.measuring.dtype)
        objective = objective_at(trial.model, trial.losses, [batch], plan.measuring.dtype)
        v = Direction({name: torch.randn_like(p) for name, p in objective.params.items()})

        def along(count: int) -> object:
            return directional_sharpness(
                objective.loss_fn, objective.params, [v] * count, [batch], per_example=objective.per_example
            )

        noise = rounding = 0.0
        if plan.measuring.sharpness and plan.measuring.details:
            noise = seconds(lambda: noise_coordinates(objective), device, clock)
        with measuring(objective.model):
            if noise and plan.measuring.dtype == torch.float32:
                quadratics = {"v": QuadraticModel(1.0, 1.0, 1.0, 1.0)}
                rounding = seconds(lambda: rounding_errors({"v": v}, quadratics, objective), device, clock) / 2
            forward = seconds(lambda: mean_loss(objective.loss_fn, objective.params, [batch]), device, clock)
            one = seconds(lambda: along(1), device, clock)
            direction = max(0.0, seconds(lambda: along(3), device, clock) - one) / 2
    recording = max(0.0, one - direction)
    return Pace(gradient, states, forward / size, recording / size, direction / size, noise, rounding)


def measured_micro_batch(trial: Task, plan: Plan) -> list[int]:
    """The examples of a micro-batch of the test batch, of middle length."""
    size = examples_at_once(trial, plan.settings, plan.measuring.dtype)
    return middle(groups_of(trial, test_examples(trial, plan.settings), size))


def states_seconds(trial: Task, plan: Plan, clock: Clock) -> float:
    """One update of the run's optimizer and of each distinct state, one after the other."""
    device = plan.settings.device
    params = with_random_gradients(trainable(trial.model))
    elsewhere, place = params, plan.settings.optimizer_device or device
    if place != device:
        elsewhere = with_random_gradients({name: p.detach().to(place) for name, p in params.items()})
    total = 0.0
    for label in distinct(PseudoUpdates(stand_ins(params), plan.pseudo_rows)):
        own = plan.pseudo_rows[label].build_pseudo(elsewhere)
        total += second_time(lambda own=own: own.advance(False, {}), place, clock)
    optimizer = plan.train_row.build(params)
    return total + second_time(optimizer.step, device, clock)
