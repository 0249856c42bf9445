"""A demo server ends with the program that started it, even when that is killed."""

import os
import signal
import subprocess
import sys

from tests.harness import wait_until

PROGRAM = """
import os, sys
from workbench.server_process import ServerProcess
server = ServerProcess(demo=False, arguments=["--api-only", "--workers", "1"])
print(server._process.pid, flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_a_killed_program_takes_its_server_along():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert alive(server)
        parent.send_signal(signal.SIGKILL)
        parent.wait(60)
    wait_until(lambda: not alive(server), timeout=60, message="the server outlived its parent")
