"""The wheel carries the bundles and the overlays, and works away from the checkout."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from .conftest import BUNDLES, ROOT


@pytest.mark.slow
def test_list_and_info_from_an_installed_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    # The heavy packages are those of this environment; only our own package comes from the wheel.
    venv.create(tmp_path / "env", with_pip=True, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    others = [path for path in sys.path if path.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(others)}
    environment.pop("NEUROBUNDLE_PATH", None)
    script = "import neurobundle, sys; sys.exit('site-packages' not in neurobundle.__file__)"
    assert subprocess.run([python, "-P", "-c", script], cwd=tmp_path, env=environment, check=False).returncode == 0
    for bundle in BUNDLES:
        for words in (["list"], ["info", bundle.name]):
            command = [python, "-m", "neurobundle", *words]
            shown = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
            assert bundle.name in shown
        assert str(tmp_path / "env") in shown, "the bundle comes from the wheel"
