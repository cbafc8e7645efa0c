"Memory of this process; a module of its own, so that measuring imports nothing large."

import sys
from pathlib import Path


def resident(
    which: str = "VmHWM",  # "VmHWM": at its peak; "VmRSS": now
) -> int:  # Bytes
    "Memory of this process; without /proc the peak, wherever it came from."
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(which))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
