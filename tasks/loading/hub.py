"""What data and models share: whether a name is a local path or a hub id, and why the hub did not deliver."""

import os
import sys
from pathlib import Path


def is_local(name: str) -> bool:
    """Whether `name` means a file or folder rather than a hub id (`owner/name` or `name`).

    A name of two parts is also local if its first part is a folder here, even without the second."""
    repository = name.partition(":")[0]
    if name.startswith((".", "/", "~")) or repository.count("/") > 1 or Path(name).exists():
        return True
    folder, slash, _ = repository.partition("/")
    return bool(slash) and Path(folder).is_dir()


def local_paths(*names: str | None) -> list[str]:
    """Those of a run's data sets and model that lie on this disk."""
    return [name for name in names if name not in (None, "toy") and is_local(name)]


def local_path(name: str) -> Path:
    """`name` as a path, with the home folder of its user in place of `~` or `~user`. ValueError for an unknown user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise ValueError(f"{name}: this machine has no user {name.split('/')[0].removeprefix('~')!r}") from None


def existing_folder(source: str) -> Path:
    """The path of a saved model's folder. ValueError if there is none; what it holds is not looked at."""
    folder = local_path(source)
    if not folder.is_dir():
        raise ValueError(f"no such model folder: {folder}; --model takes a saved model's folder, a hub id, or toy")
    return folder


def quiet_libraries() -> None:
    """Show progress bars on a terminal only, and silence the libraries' logs: their errors are raised anyway."""
    import datasets
    import huggingface_hub.utils
    import transformers.utils.logging

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        huggingface_hub.utils.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()


def hub_refusal(kind: str, name: str, error: Exception, instead: str) -> ValueError:
    """One line that says why the hub did not deliver, and what to use instead.

    `kind` is "dataset" or "model", `instead` names the alternatives.
    """
    import huggingface_hub  # after a failed load it is there already

    chain = _causes(error)
    names = {cause.__name__ for link in chain for cause in type(link).__mro__}
    text = " ".join(str(link) for link in chain).lower()
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    page = f"{endpoint}/datasets/{name}" if kind == "dataset" else f"{endpoint}/{name}"
    statuses = {getattr(getattr(link, "response", None), "status_code", None) for link in chain}
    if "GatedRepoError" in names or "gated dataset" in text:
        reason = f"is gated: accept its terms at {page} and give your access token with --hf_key or HF_TOKEN"
    elif "offlinemodeisenabled" in text or huggingface_hub.constants.HF_HUB_OFFLINE:
        reason = "is not in the local cache, and HF_HUB_OFFLINE forbids fetching it"
    elif "RepositoryNotFoundError" in names or "doesn't exist on the hub" in text or "not a valid model" in text:
        reason = f"is not on the hub, or is private and needs --hf_key (looked at {page})"
    elif 401 in statuses:
        reason = "cannot be fetched: the hub refuses the access token; see --hf_key, HF_TOKEN or the stored login"
    elif names & {"RemoteProtocolError", "ReadError", "IncompleteRead", "ReadTimeout"}:
        reason = "was fetched only in part: the connection broke off; start again"
    elif names & {"ArrowInvalid", "SafetensorError"}:
        reason = f"has a file that is cut short or damaged ({first_line(error)})"
    elif names & {"ConnectError", "TimeoutException", "LocalEntryNotFoundError", "ConnectionError"}:
        reason = "cannot be fetched: the hub cannot be reached, and it is not in the local cache"
    else:
        reason = f"cannot be loaded: {first_line(error)}"
    return ValueError(f"{kind} {name!r} {reason}. Without the hub: {instead}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _causes(error: BaseException) -> list[BaseException]:
    """The error, what it was raised from, and so on."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
