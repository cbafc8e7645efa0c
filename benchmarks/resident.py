"Work in a process of its own, and its memory; a module of its own, so that measuring imports nothing large."

import json
import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]  # Of the checkout, where `benchmarks` is found


def resident(
    which: str = "VmHWM",  # "VmHWM": at its peak; "VmRSS": now
) -> int:  # Bytes
    "Memory of this process; without /proc the peak, wherever it came from."
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(which))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_own_process(
    function: str,  # As in "benchmarks.memory.draw_alone"
    *arguments: object,  # What `repr` writes so that Python reads the same
) -> dict[str, float]:  # What the function returns
    "Call a function in a process of its own, one thread. RuntimeError, with the process's last words, if it fails."
    module, name = function.rsplit(".", 1)
    given = ", ".join(map(repr, arguments))
    code = f"import json\nfrom {module} import {name}\nprint(json.dumps({name}({given})))"
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{name}({given}) failed in its own process: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])
