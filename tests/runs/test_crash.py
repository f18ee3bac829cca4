"""Every durable system call is a place to die at."""

import subprocess
import sys


def test_killed_before_or_after_any_durable_call_it_resumes_to_the_same_bytes(tmp_path):
    done = subprocess.run([sys.executable, "-m", "tests.support.crash_points", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
