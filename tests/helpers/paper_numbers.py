"""The papers' numbers as Markdown tables, from paper_protocols.json: `python -m tests.helpers.paper_numbers`."""

import json
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "papers.md"
HEADING = "## The papers' numbers beside the code's\n"


def text_of(value) -> str:
    return str(value).replace("|", "/") if isinstance(value, str) else json.dumps(value).replace("|", "/")


def table(columns: list[str], rows: list[list]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(text_of(cell) for cell in line) + " |" for line in lines)


def section() -> str:
    facts = json.loads((PAGE.parent / "paper_protocols.json").read_text())
    settings = [
        [e["task"], e["setting"], e["paper"], e.get("here", "the same"), e["source"]] for e in facts["task_settings"]
    ]
    splits = [[e["task"], e["field"], e["paper"], e["source"]] for e in facts["data_splits"] + facts["metrics"]]
    rows = [
        [entry["list"], entry["task"], row, entry["source"]]
        for entry in facts["algorithm_lists"]
        for row in entry["rows"]
    ]
    rates = facts["learning_rates_of_b"]
    of_b = [[name, value] for name, value in rates.items() if name not in ("source",)]
    parts = [
        HEADING,
        "`tests/test_paper_protocols.py` compares each of these numbers with the code and fails on a difference. W is",
        'the workshop paper, L the long version, A and B the released codes. "here" names what differs on purpose.\n',
        table(["task", "setting", "paper", "here", "source"], settings) + "\n",
        table(["task", "field", "paper and here", "source"], splits) + "\n",
        table(["list", "task", "row", "source"], rows) + "\n",
        f"Learning rates of B ({rates['source']}):\n",
        table(["entry", "values, paper and here"], of_b) + "\n",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    before = PAGE.read_text().partition(HEADING)[0].rstrip()
    PAGE.write_text(f"{before}\n\n{section()}")
