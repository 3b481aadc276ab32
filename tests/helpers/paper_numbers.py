"""The papers' numbers as Markdown tables, from paper_protocols.json: `python -m tests.helpers.paper_numbers`."""

import json
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "papers.md"
HEADING = "## What the tasks take from the hub\n"
NUMBERS = "## The papers' numbers beside the code's\n"


def text_of(value) -> str:
    return str(value).replace("|", "/") if isinstance(value, str) else json.dumps(value).replace("|", "/")


def table(columns: list[str], rows: list[list]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(text_of(cell) for cell in line) + " |" for line in lines)


def section() -> str:
    """The end of the page: what the tasks find on the hub, and every number of the papers beside the code's."""
    facts = json.loads((PAGE.parent / "paper_protocols.json").read_text())
    return "\n".join([*hub_tables(facts), *number_tables(facts)])


# ---- the hub ----------------------------------------------------------------------------------------------------


def hub_tables(facts: dict) -> list[str]:
    repositories = [
        [
            e["task"],
            e["repository"],
            ", ".join(f"{name} {rows:,}" for name, rows in e["splits"].items()),
            ", ".join(e["fields"]),
            e["confirmed"],
        ]
        for e in facts["hub"]
    ]
    used = [[f"`{e['task']}`", *(f"{rows:,}" for rows in e["used"]), *["none"] * (3 - len(e["used"]))]
            for e in facts["hub"]]  # fmt: skip
    return [
        HEADING,
        "Rows that each task uses by default:\n",
        table(["task", "training", "evaluation", "test"], used) + "\n",
        "The tests of GLUE and SuperGLUE have no labels, so the official validation split is the test. Tasks without",
        "labels take the first rows of the training split. A labeled split of unknown use is refused by name, and the",
        "log names the splits that are left out.\n",
        "The names of splits and fields were read in stored copies of public pages, not on the hub itself. *Card*,",
        "*viewer page* and *file list* are the repository's own. *Code* is public code that reads this very",
        "repository by these names. The validation split may also be called val, valid or dev. A picture may be called",
        "image or img, and a label label, labels, variant or variation. Other names are refused, with the",
        "names that there are.\n",
        table(["task", "repository", "splits and rows", "fields", "names read in"], repositories) + "\n",
    ]


# ---- the numbers ------------------------------------------------------------------------------------------------


def beside(entry: dict, number: str = "paper") -> list:
    """Paper, here, source and reason of an entry."""
    nothing = "all" if entry.get("setting") == "dataset_size" else "none" if "option" in entry else "not reported"
    paper = nothing if entry[number] is None else entry[number]
    return [paper, entry.get("here", "the same"), entry["source"], entry.get("why", "")]


def number_tables(facts: dict) -> list[str]:
    columns = ["paper", "here", "source", "why it differs"]
    settings = [[e["task"], e["setting"], *beside(e)] for e in facts["task_settings"]]
    splits = [[e["task"], e["field"], *beside(e)] for e in facts["data_splits"] + facts["metrics"]]
    values = [[e["what"], *beside(e)] for e in facts["values"]]
    values += [[f"{e['optimizer']}: {e['option']}", *beside(e)] for e in facts["optimizer_defaults"]]
    values += [[f"optimizer of {e['flags']}", *beside(e)] for e in facts["training_optimizers"]]
    schedules = [[e["schedule"], e["epochs"], [round(rate, 3) for rate in e["paper"]], e["source"]]
                 for e in facts["schedules"]]  # fmt: skip
    return [
        NUMBERS,
        "`tests/test_paper_protocols.py` compares each of these numbers with the code and fails on a difference. W is",
        'the workshop paper, L the long version, A and B the released codes. "here" names what differs on purpose.\n',
        table(["task", "setting", *columns], settings) + "\n",
        "Splits and scores:\n",
        table(["task", "field", *columns], splits) + "\n",
        "Values and defaults:\n",
        table(["what", *columns], values) + "\n",
        "Schedules, as factors of the learning rate at each update of a short run:\n",
        table(["schedule", "epochs", "factors, paper and here", "source"], schedules) + "\n",
        *list_tables(facts["algorithm_lists"]),
        *rate_tables(facts["learning_rates_of_b"]),
    ]


def list_tables(lists: list[dict]) -> list[str]:
    rows = []
    for entry in lists:
        for row in entry["rows"]:
            options = ", ".join(f"{name}={row[name]}" for name in ("coordinate_clip", "clip_update") if name in row)
            rows.append([entry["list"], row["algorithm"], options, *beside(row | {"source": entry["source"]}, "lr")])
    momentum = [f"`{e['list']}` has {', '.join(f'{k}={v}' for k, v in e['momentum'].items())}" for e in lists]
    return [
        "Rows of the lists with their learning rates. SGD, normalized SGD and sign descent have momentum:",
        "; ".join(momentum).replace("; ", ";\n") + ".\n",
        table(["list", "algorithm", "options", "learning rate", "here", "source", "why it differs"], rows) + "\n",
    ]


def rate_tables(rates: dict) -> list[str]:
    of_lists = [[name.removeprefix("gradient_heterogeneity/"), *row] for name, row in rates["lists"].items()]
    schedules = ("constant", "cosine", "linear_with_warmup")
    others = [[e["list"].removeprefix("gradient_heterogeneity/"), e["column"], *(e[name] for name in schedules)]
              for e in rates["other_schedules"]]  # fmt: skip
    return [
        "The 66 learning rates of B, paper and here, by the list `gradient_heterogeneity/NAME`:\n",
        table(["list", *rates["columns"]], of_lists) + "\n",
        "B's rates at other schedules, which the lists do not have (see above):\n",
        table(["list", "row", *schedules], others) + "\n",
        f"B's seeds: {', '.join(map(str, rates['seeds']))}.\n",
    ]


if __name__ == "__main__":
    before = PAGE.read_text().partition(HEADING)[0].rstrip()
    PAGE.write_text(f"{before}\n\n{section()}")
