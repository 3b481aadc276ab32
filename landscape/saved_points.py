"""Measured points of a landscape run, kept so that they can be measured again without training.

save_point(folder, measured, model)                       # --save_points
for measured in load_points(point_files(folder), model)   # --from_points: the model is at each point in turn
"""

import argparse
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from curvature.direction import Direction
from landscape.top_eigenvalues import Stability
from runs.checkpoints import content_hash, fitting, load_tensors, save_tensors
from runs.config import read_config
from runs.resuming import OF_THIS_COMMAND, on_top_of
from runs.tables import TRAINING
from tasks.loading.hub import local_paths
from torch_optimizer import Algorithm
from training.loop import Point

OF_THESE_POINTS = (
    *OF_THIS_COMMAND,
    "checkpoint_every",
    "from_points",
    "save_points",
    "save_model",
    "skip_search",
    "skip_sharpness",
    "check_sharpness",
    "top_eigenvalues",
    "device",
    "optimizer_device",
    "shard",
)
MEASURED_ANEW = (
    *OF_THESE_POINTS,
    "dtype",
    "test_batch_size",
    "test_seed",
    "step_size",
    "scan",
    "micro_batch_size",
    "reference",
    "measure_on",
    "decompose",
    "frequency_classes",
)


def settings_of_points(parser: argparse.ArgumentParser, arguments: Sequence[str], folder: str) -> argparse.Namespace:
    """The settings of the run in `folder`; those of a measurement are replaced by the command line's.

    Raises: ValueError, in one line, if the folder holds no run of this script, or for a flag that contradicts it.
    """
    settings, config, changes = on_top_of(folder, parser, arguments, own=OF_THESE_POINTS, free=MEASURED_ANEW)
    before = config.get("data", {})
    for path in local_paths(settings.dataset, settings.model, settings.eval_dataset):
        if content_hash(Path(path).expanduser()) != before.get(path):
            changes.append(f"{path} has another content")
    if changes:
        raise ValueError(f"the points of {folder} belong to another run: {'; '.join(changes)}")
    return settings


def rows_of_run(folder: str) -> dict[str, Algorithm]:
    """label -> row of a run's algorithm list, as it was then. Raises: ValueError, in one line, if it is damaged."""
    try:
        return {
            row["label"]: Algorithm(
                row["name"], step_size=row["step_size"], groups=row.get("groups", ()), **row["options"]
            )
            for row in read_config(folder)["algorithms"]
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"the algorithms in {folder}/config.json cannot be read: {error!r}") from error


FOLDER = "points"
POINT = re.compile(r"point-(?P<iteration>\d+)(-seed(?P<seed>\d+))?")


@dataclass(frozen=True)
class MeasuredPoint:
    """x_t of a run, with what is to be measured there."""

    point: Point
    directions: dict[str, Direction]  # label -> update direction; TRAINING -> that of the optimizer that trains
    scan: bool  # whether the loss is scanned along them
    lost: list[str] = field(default_factory=list)  # labels of the algorithms whose step or state is not finite here
    learning_rates: dict[str, float] = field(default_factory=dict)  # label -> lr of its step
    swept: dict[str, Direction] = field(
        default_factory=dict
    )  # of rows at other clip fractions, where they are measured
    stability: Stability | None = None  # of the optimizer that trains, where eigenvalues may be asked for


def save_point(folder: Path, measured: MeasuredPoint, model: nn.Module, seed: int | None = None) -> None:
    """Store the point, its directions and the model's state. Raises: CannotWrite, in one line.

    seed: of a run of several seeds, to tell their points apart.
    """
    state = dict(
        point=asdict(measured.point),
        scan=measured.scan,
        lost=measured.lost,
        learning_rates=measured.learning_rates,
        directions={label: dict(v) for label, v in measured.directions.items()},
        stability=measured.stability and vars(measured.stability),
        model=model.state_dict(),
    )
    of_seed = "" if seed is None else f"-seed{seed}"
    save_tensors(folder / FOLDER / f"point-{measured.point.iteration:08d}{of_seed}.pt", state)


def point_files(folder: str | Path, seed: int | None = None) -> list[Path]:
    """The files of a run's points, in their order. Raises: ValueError, in one line, if it kept none.

    seed: only the points of that seed; a run of one seed does not write it into their names.
    """
    sums = sorted((Path(folder) / FOLDER).glob("point-*.json"))  # written last: without it a point is not whole
    named = {path.with_suffix(".pt"): match["seed"] for path in sums if (match := POINT.fullmatch(path.stem))}
    if not named:
        raise ValueError(f"--from_points {folder} holds no saved points; --save_points keeps them")
    return [path for path, of_seed in named.items() if seed is None or of_seed in (None, str(seed))]


def iteration_of(path: Path) -> int:
    """At which update of its run the point lies, from its file's name."""
    return int(POINT.sub(r"\g<iteration>", path.stem))


def load_points(paths: Iterable[Path], model: nn.Module, labels: Container[str]) -> Iterator[MeasuredPoint]:
    """Load each point into `model` in turn.

    labels: of the run's rows; a direction of another one is refused.

    Raises: DoesNotFit, in one line, for a damaged file, or one of another model or another list.
    """
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    for path in paths:
        with fitting(f"the saved point {path.name}"):
            state = load_tensors(path)
            model.load_state_dict(state.pop("model"))
            directions = {label: Direction(v) for label, v in state["directions"].items()}
            unknown = [label for label in (*directions, *state["lost"]) if label not in labels and label != TRAINING]
            if unknown:
                raise ValueError(f"config.json has no row {unknown[0]!r:.60}")
            stability = None if state.get("stability") is None else Stability(**state["stability"])
            of_model = [*state["directions"].values(), *filter(None, [stability and stability.inverse])]
            if any({name: t.shape for name, t in v.items()} != shapes for v in of_model):
                raise ValueError("its directions do not fit this model")
            point = Point(**state["point"])
            if not all(isinstance(value, (int, float)) for value in asdict(point).values()):
                raise ValueError("its epoch, batch and iteration are not all numbers")
            measured = MeasuredPoint(**state | dict(point=point, directions=directions, stability=stability))
            del state, of_model, directions  # the caller alone holds them
        yield measured
