"""What the tests of the study share: the scripts' parsers, and a search of learning rates."""

from convergence.flags import make_parser as convergence_parser
from hessian.flags import make_parser as hessian_parser
from landscape.flags import make_parser as landscape_parser
from runs.tables import Table

PARSERS = {
    "run_landscape.py": landscape_parser,
    "run_convergence.py": convergence_parser,
    "run_hessian.py": hessian_parser,
}


def tuned(folder, **rates):
    """A finished search of learning rates."""
    table = Table(folder / "tuned_learning_rates.csv", ["algorithm", "lr", "chosen"])
    for label, lr in rates.items():
        for factor in (0.1, 1, 10):
            table.append(algorithm=label, lr=lr * factor, chosen=int(factor == 1))
    folder.mkdir(parents=True, exist_ok=True)
    table.save()
