"""Real text that every machine with Python has: the source files of its standard library, and their docstrings.

It differs between Python versions, so results on it are comparable on one machine only."""

import ast
import functools
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

NOT_OF_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


@functools.cache
def _modules() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in folder.rglob("*.py") if not NOT_OF_THE_LIBRARY & set(p.relative_to(folder).parts))
    if not paths:
        raise ValueError(f"the toy data are Python's own source files, and {folder} holds none; give --dataset FILE")
    return paths


def source_files(seed: int) -> Iterator[str]:
    """The text of every module of the standard library that is not empty, in an order drawn from `seed`."""
    modules = _modules()
    for path in random.Random(seed).sample(modules, len(modules)):
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.strip():
            yield text


def docstrings(count: int, seed: int, fewest_words: int = 8) -> list[str]:
    """`count` docstrings of the standard library, with white space collapsed. ValueError if there are fewer."""
    texts = []
    for text in source_files(seed):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = (ast.get_docstring(node) or "").split()
                if len(words) >= fewest_words:
                    texts.append(" ".join(words))
        if len(texts) >= count:
            return texts[:count]
    raise ValueError(f"Python's library holds only {len(texts)} docstrings; --dataset_size {len(texts)} would do")
