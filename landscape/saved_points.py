"""Measured points of a landscape run, kept so that they can be measured again without training.

    save_point(folder, measured, model)                       # --save_points
    for measured in load_points(point_files(folder), model)   # --from_points: the model is at each point in turn
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from checkpoints import fitting, load_tensors, save_tensors
from measuring import Params
from training import Point

FOLDER = "points"


@dataclass(frozen=True)
class MeasuredPoint:
    """x_t of a run, with what is to be measured there."""

    point: Point
    directions: dict[str, Params]  # label -> update direction
    scan: bool  # whether the loss is scanned along them
    lost: list[str] = field(default_factory=list)  # labels of the algorithms that ceased to be finite here


def save_point(folder: Path, measured: MeasuredPoint, model: nn.Module) -> None:
    """Store the point, its directions and the model's state. Raises: CannotWrite, in one line."""
    state = dict(
        point=asdict(measured.point), scan=measured.scan, lost=measured.lost,
        directions=measured.directions, model=model.state_dict(),
    )  # fmt: skip
    save_tensors(folder / FOLDER / f"point-{measured.point.iteration:08d}.pt", state)


def point_files(folder: str | Path) -> list[Path]:
    """The files of a run's points, in their order. Raises: ValueError, in one line, if it kept none."""
    sums = sorted((Path(folder) / FOLDER).glob("point-*.json"))  # written last: without it a point is not whole
    if not sums:
        raise ValueError(f"--from_points {folder} holds no saved points; --save_points keeps them")
    return [path.with_suffix(".pt") for path in sums]


def load_points(paths: Iterable[Path], model: nn.Module) -> Iterator[MeasuredPoint]:
    """Bring `model` to each point in turn. Raises: DoesNotFit, in one line, for a damaged file or another model."""
    for path in paths:
        with fitting("a saved point"):
            state = load_tensors(path)
            model.load_state_dict(state.pop("model"))
        yield MeasuredPoint(**{**state, "point": Point(**state["point"])})
