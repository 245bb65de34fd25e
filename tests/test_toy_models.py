"""The commands of docs/families.md run from a clone: erase, export, apply and recheck on a Z-Image at toy size."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path) -> None:
    page = (ROOT / "docs/families.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    program = f'unconcept() {{ "{sys.executable}" -m unconcept "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "UNCONCEPT_STORE": str(tmp_path / "store")}
    done = subprocess.run(
        ["bash", "-euc", program + commands], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "holds" in done.stdout
    assert set(load_file(tmp_path / "out/dog-comfyui.safetensors")) == {"diffusion_model.cap_embedder.1.diff"}
    assert (tmp_path / "out/dog.png").stat().st_size > 0
