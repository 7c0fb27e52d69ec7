"""The package as a distribution of its own: built, installed without echojax, and used."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import selective_scan

KERNELS = Path(__file__).parents[2] / "kernels"


def test_the_readmes_example_learns():
    (example,) = re.findall(
        r"```python\n(import jax\n.*?)```", (KERNELS / "README.md").read_text(), re.S
    )
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["loss"](names["parameters"]) < names["before"]


@pytest.mark.slow
def test_it_is_installed_and_used_without_echojax(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling, which builds it, is not installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--target", tmp_path / "site", KERNELS], check=True)
    installed = {path.name for path in (tmp_path / "site").iterdir()}
    version = selective_scan.__version__
    assert installed == {"selective_scan", f"selective_scan_jax-{version}.dist-info"}
    assert (tmp_path / "site" / "selective_scan" / "py.typed").exists()
    licence = f"selective_scan_jax-{version}.dist-info/licenses/LICENSE"
    assert "Apache License" in (tmp_path / "site" / licence).read_text()
    (tmp_path / "use.py").write_text(
        "import sys, jax.numpy as jnp, selective_scan\n"
        "x = jnp.ones((2, 9, 4))\n"
        "y = selective_scan.selective_scan(x, x, -jnp.ones((4, 3)), x[..., :3], x[..., :3])\n"
        "assert 'echojax' not in sys.modules and 'flax' not in sys.modules\n"
        "print(selective_scan.__file__, float(y.sum()))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, tmp_path / "use.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "site"))
