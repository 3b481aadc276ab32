"""Every task from the hub by its real names, through the code that a user runs, against a stand-in on 127.0.0.1."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import TASKS, load_task, task_defaults
from tasks.toy.labeled import reviews
from tests.helpers.hub_repositories import REPOSITORIES, small_splits
from tests.helpers.hub_stand_in import HubStandIn

ROOT = Path(__file__).parent.parent
# Imports once, under the hub's address, and answers every request in a fork of itself, which has asked the hub nothing.
SERVER = """
import json, logging, os, sys, traceback
import tasks

for name in ("machine_translation", "masked_language_modeling", "autoregressive", "glue/rte", "image_classification"):
    tasks.load_task(name, dataset="toy", model="toy", dataset_size=4)  # for its imports

logging.basicConfig(format="LOG %(name)s %(message)s", stream=sys.stdout)
logging.getLogger("tasks").setLevel(logging.INFO)


def answer(name, options, environment):
    os.environ.update(environment)
    try:
        task = tasks.load_task(name, **options)
        sizes = [len(task.evaluation[split]) for split in sorted(task.evaluation)]
        print("loaded", name, len(task.examples), *sizes, type(task.model).__name__, flush=True)
    except ValueError as error:
        print("refused", name, error, flush=True)
    for variable in environment:
        del os.environ[variable]


for line in sys.stdin:
    if (child := os.fork()) == 0:
        status = 70
        try:
            for case in json.loads(line):
                answer(*case)
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    print("END", os.waitstatus_to_exitcode(status), flush=True)
"""


def put(folder: Path, configs: dict[str, dict[str, list[dict]]]):
    """A data set repository as the hub keeps them: {configuration: {split: rows}}; "" is the only configuration."""
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config or 'default'}", "  data_files:"]
        for split, rows in splits.items():
            card += [f"  - split: {split}", f"    path: {config or 'data'}/{split}-*"]
            put_file(folder / f"{config or 'data'}/{split}-00000-of-00001.parquet", rows)
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


def put_file(path: Path, rows: list[dict]):
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(rows)  # an image is found by its type
    for column in {"image", "img"} & set(data.column_names):
        data = data.cast_column(column, datasets.Image())
    data.to_parquet(path)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """A folder with every data set and model that the tasks take by default, small."""
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "datasets"
    configurations = {"Helsinki-NLP/opus_books": {"en-de": {"train": [{"x": 1}]}}}
    for task, repository in REPOSITORIES.items():
        name, _, configuration = repository.source.partition(":")
        if task not in ("autoregressive", "masked_language_modeling"):  # below; and the second is IMDb once more
            configurations.setdefault(name, {})[configuration] = small_splits(task)
    for name, splits in configurations.items():
        put(data / name, splits)
    for repository in ("broken/dropped", "broken/truncated"):
        put(data / repository, {"": {"train": reviews(400, 0)}})
    stack = data / "bigcode/the-stack-smol"
    for language in ("python", "java"):
        (stack / "data" / language).mkdir(parents=True)
        rows = small_splits("autoregressive")["train"]
        (stack / "data" / language / "data.json").write_text("\n".join(map(json.dumps, rows)))
    for i in range(20):
        rows = [{"content": f"file = {i}\n" * 9}] * 8
        put_file(data / "many/files" / "data" / f"train-{i:05}-of-00020.parquet", rows)
    by_model = {task_defaults(name).model: name for name in TASKS if name != "toy"}
    for model, name in by_model.items():
        toy = load_task(name, dataset="toy", model="toy", **small(name))
        toy.save_model(folder / "models" / model)
    (folder / "models/broken/cut").mkdir(parents=True)
    source = folder / "models/google-t5/t5-small"
    for path in source.iterdir():
        content = path.read_bytes()
        cut = len(content) // 2 if path.suffix == ".safetensors" else len(content)
        (folder / "models/broken/cut" / path.name).write_bytes(content[:cut])
    return folder


@pytest.fixture(scope="module")
def hub(repositories):
    gated = ("bigcode/the-stack-smol",)
    with HubStandIn(repositories, gated, {"broken/dropped": "dropped", "broken/truncated": "truncated"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def server(hub, tmp_path_factory):
    """(a process that loads tasks from the hub, the folder of its cache and its login)."""
    home = tmp_path_factory.mktemp("home") / "hf"
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, "-c", SERVER], subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=ROOT, env=env, text=True
    ) as p:
        yield p, home
        p.stdin.close()


@pytest.fixture
def home(server):
    """The cache and the login of one test, empty at its start."""
    shutil.rmtree(server[1], ignore_errors=True)
    server[1].mkdir()
    return server[1]


@pytest.fixture
def ask(server, hub, home):
    """ask(cases) -> (a line for each case, what the hub was asked); each call has a process of its own."""

    def run(cases: list[tuple[str, dict, dict]]):
        process, _ = server
        hub.requests.clear()
        process.stdin.write(json.dumps(cases) + "\n")
        process.stdin.flush()
        lines = []
        while not (line := process.stdout.readline()).startswith("END"):
            assert line, "the process that loads tasks has ended"
            lines.append(line.rstrip("\n"))
        assert line == "END 0\n", lines
        return [line for line in lines if not line.startswith("LOG")], list(hub.requests)

    return run


SMALL = dict(dataset_size=16, max_length=32)
TOY = SMALL | {"model": "toy"}


def small(name: str) -> dict:
    """16 examples, of texts cut at 32 tokens."""
    return dict(dataset_size=16) if task_defaults(name).max_length is None else SMALL


def test_every_task_loads_from_the_hub_by_its_default_names(ask):
    names = [name for name in TASKS if name != "toy"]
    cases = [(name, small(name) | {"hf_key": HubStandIn.key}, {}) for name in names]
    lines, requests = ask([*cases, ("autoregressive", TOY | {"dataset": "many/files"}, {})])
    assert lines.pop().startswith("loaded autoregressive 16")
    assert [line.split()[:3] for line in lines] == [["loaded", name, "16"] for name in names], lines
    assert all(key == HubStandIn.key for _, path, key in requests if "the-stack-smol" in path and "resolve" in path)
    assert not any("java" in path for method, path, _ in requests if method == "GET" and "resolve" in path)
    fetched = {path for method, path, _ in requests if method == "GET" and "many/files/resolve" in path}
    assert 0 < len(fetched) < 8, "only the first of the 20 files are read"


def test_no_labeled_row_of_the_hub_is_lost(ask):
    """Training, evaluation and test, of 40 rows to train on, 20 of a validation split and 8 of a test split."""
    sizes = {name: "36 4 8" for name in ("binary_classification", "image_classification")}
    sizes |= {name: "48 12 8" for name in ("flowers102", "aircraft")}
    sizes |= {name: "36 4 20" for name in TASKS if "glue" in name}
    length = {name: {} if task_defaults(name).max_length is None else {"max_length": 32} for name in sizes}
    # the first paper's tasks take 10,240 rows unless told otherwise
    whole = {name: {"dataset_size": 36} if "_classification" in name else {} for name in sizes}
    lines, _ = ask([(name, {"model": "toy"} | length[name] | whole[name], {}) for name in sizes])
    assert [" ".join(line.split()[1:5]) for line in lines] == [f"{name} {counts}" for name, counts in sizes.items()]


GATED = "is gated: accept its terms at {url}/datasets/bigcode/the-stack-smol and give your access token with --hf_key"
REFUSALS = [  # task, options, what the line says
    ("autoregressive", TOY, GATED),
    ("autoregressive", TOY | {"hf_key": "hf_not_accepted"}, GATED),
    ("autoregressive", TOY | {"hf_key": "hf_wrong"}, "the hub refuses the access token"),
    ("machine_translation", SMALL | {"dataset": "toy", "hf_key": "hf_wrong"}, "the hub refuses the access token"),
    ("machine_translation", TOY | {"dataset": "no/thing"}, "is not on the hub, or is private and needs --hf_key"),
    ("machine_translation", SMALL | {"dataset": "toy", "model": "no/thing"}, "is not on the hub, or is private"),
    ("binary_classification", TOY | {"dataset": "broken/dropped"}, "the connection broke off"),
    ("binary_classification", TOY | {"dataset": "broken/truncated"}, "cut short or damaged"),
    ("machine_translation", SMALL | {"dataset": "toy", "model": "broken/cut"}, "cut short or damaged"),
    ("glue/rte", TOY | {"dataset": "nyu-mll/glue:nope"}, "'nope' not found"),
]


def test_each_refusal_of_the_hub_is_one_clear_line(ask, hub):
    lines, _ = ask([(name, options, {}) for name, options, _ in REFUSALS])
    for (name, options, message), line in zip(REFUSALS, lines, strict=True):
        assert line.startswith(f"refused {name}"), (options, line)
        assert message.format(url=hub.url) in line, (options, line)
        assert "Without the hub: --" in line, line


def test_a_second_start_reads_the_cache_and_a_login_opens_gated_data(ask, home):
    cases = [("autoregressive", TOY, {"HF_TOKEN": HubStandIn.key}), ("binary_classification", TOY, {})]
    lines, _ = ask(cases)
    assert [line.split()[0] for line in lines] == ["loaded", "loaded"], lines
    (home / "token").write_text(HubStandIn.key)
    again, requests = ask([(name, options, {}) for name, options, _ in cases])
    assert again == lines
    assert not any(method == "GET" and path.endswith((".parquet", ".json")) for method, path, _ in requests)
    assert {key for _, path, key in requests if "the-stack-smol/resolve" in path} == {HubStandIn.key}
