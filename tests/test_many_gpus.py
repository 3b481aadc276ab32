"""docs/many_gpus.md and its sbatch file, run through a shell with stand-ins for Slurm's commands and torchrun."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SBATCH = ROOT / "examples" / "many_gpus.sbatch"
STANDS_IN = {
    "scontrol": 'if [ "$1" = show ]; then printf "node7\\nnode8\\n"; else echo "scontrol $*" >> "$CALLS"; fi',
    "srun": 'echo "srun $1" >> "$CALLS"; shift; exec "$@"',
    "torchrun": 'echo "torchrun $*" >> "$CALLS"; echo "$LAST_LINE" >> "$FOLDER/log.txt"; exit $ENDS',
}


@pytest.fixture
def job(tmp_path):
    """job(ends, last_line): (exit status, the calls) of one job of Slurm, whose run ends in this way."""
    for name, script in STANDS_IN.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    folder, calls = tmp_path / "run", tmp_path / "calls"
    folder.mkdir()
    slurm = dict(SLURM_JOB_ID="41007", SLURM_JOB_NODELIST="node[7-8]", SLURM_NNODES="2", SLURM_GPUS_ON_NODE="4")

    def job(ends=0, last_line=""):
        calls.unlink(missing_ok=True)
        own = dict(PATH=f"{tmp_path}:{os.environ['PATH']}", CALLS=str(calls), FOLDER=str(folder))
        environment = slurm | own | dict(ENDS=str(ends), LAST_LINE=last_line)
        done = subprocess.run(["bash", SBATCH, "--task", "toy"], env=environment, capture_output=True, text=True)
        return done.returncode, calls.read_text().splitlines(), folder

    return job


def test_a_job_starts_a_run_on_all_cards_and_the_next_one_continues_it(job):
    status, (srun, torchrun), folder = job()
    assert status == 0 and srun == "srun --kill-on-bad-exit=1"
    assert torchrun == (
        "torchrun --nnodes=2 --nproc_per_node=4 --max-restarts=0 --shutdown-timeout=500 --rdzv_id=41007 "
        f"--rdzv_backend=c10d --rdzv_endpoint=node7:21007 run_landscape.py --task toy --output_dir {folder}"
    )
    (folder / "config.json").touch()
    assert job()[1][1].endswith(f"run_landscape.py --resume {folder}")


def test_a_job_whose_time_is_over_is_put_back_and_one_that_failed_is_not(job):
    status, calls, _ = job(1, "12:00 ERROR stopped by SIGTERM after iteration 7; continue with: ...")
    assert status == 1 and calls[-1] == "scontrol requeue 41007"
    status, calls, _ = job(1, "12:00 ERROR stopped: the training loss is nan")
    assert status == 1 and calls[-1].startswith("torchrun")


def test_the_page_shows_the_sbatch_file_as_it_is():
    page = (ROOT / "docs" / "many_gpus.md").read_text()
    assert f"```bash\n{SBATCH.read_text()}```" in page
