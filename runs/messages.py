"""What a script says while it works: log lines, progress bars, one-line answers to wrong input."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:  # figures import this module, and never torch
    from runs.flags import Parser

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def answering_input_errors(parser: Parser) -> Iterator[None]:
    """Around everything before the work starts: what is wrong with the input is said in one line, exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        parser.error(str(error) or repr(error))


def start_logging(verbose: bool) -> None:
    """Messages go to standard error, above the progress bars: ours from INFO on, or DEBUG if `verbose`; those of
    libraries from WARNING on."""
    handler = _BarHandler()
    handler.addFilter(_is_worth_showing)
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}"  # one line, no code


def _is_worth_showing(record: logging.LogRecord) -> bool:
    path = Path(record.pathname)
    return record.levelno >= logging.WARNING or path.is_relative_to(ROOT) and "site-packages" not in path.parts


class _BarHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def progress(iterable=None, **options) -> tqdm:
    """A progress bar that is silent when standard error is not a terminal."""
    return tqdm(iterable, disable=None, dynamic_ncols=True, **options)
