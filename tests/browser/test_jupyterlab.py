"""The quick-start notebook in a real JupyterLab: runs, renders, and its report reacts to a click."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.harness import wait_until

ROOT = Path(__file__).parent.parent.parent
TOKEN = "lab-test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab whose folder holds a copy of the notebook."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "notebooks" / "01_quickstart.ipynb", folder)
    home = tmp_path_factory.mktemp("jupyter")
    port = free_port()
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
                   "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
               f"--port={port}", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
               "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (home / "lab.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    base = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (home / "lab.log").read_text()[-2000:]
        try:
            return urlopen(f"{base}/api?token={TOKEN}", timeout=2).status == 200
        except OSError:
            return False

    wait_until(answers, timeout=60, message="JupyterLab did not answer")
    yield base
    process.terminate()
    process.wait(20)


@pytest.mark.browser
@pytest.mark.slow
def test_the_quickstart_report_renders_and_updates_in_jupyterlab(lab: str, context):
    page = context.new_page()
    page.goto(f"{lab}/lab/tree/01_quickstart.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.get_by_text("Python 3 (ipykernel)").first.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run").first.click()
    page.get_by_text("Run All Cells", exact=True).click()
    returns = page.locator(".jp-OutputArea").get_by_text("Returns", exact=True).first
    returns.wait_for(timeout=120_000)
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'] >> text=Error").count()
    plots = page.locator(".jp-OutputArea .bk-Figure")
    plots.first.wait_for(timeout=60_000)
    before = plots.count()
    returns.click()  # the tab is built in the kernel when it is first opened: the plot travels over the comm
    wait_until(lambda: plots.count() > before, timeout=60, message="the Returns tab showed no plot")
