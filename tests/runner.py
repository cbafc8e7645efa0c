"""Runs the cells of notebooks, each notebook in a process of its own that starts with the slow imports done.

As a program it is a server: it imports what nearly every notebook imports, then reads one job a line from standard
input, forks a child that runs it, and answers with one line of JSON. A job is {"cells": [[place, source, solution or
null], ...], "folder": where the notebook lies, "scratch": a folder of its own}; the answer {"code", "said", "seconds"}.
`run(job)` starts the server on its first call. Where a process cannot be forked, each job gets a new Python.
"""

import atexit
import json
import os
import resource
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

LIMIT = 900  # seconds that one notebook may take
SHARED = (  # what several notebooks import, by themselves or through sdfdiff; no module of ours
    "torch", "torch._dynamo", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "xarray", "h5netcdf",
    "scipy.ndimage", "scipy.stats", "skimage.color", "skimage.transform", "ipywidgets", "zarr", "dask.array",
    "distributed",
)  # fmt: skip


@cache
def server(here: int) -> subprocess.Popen:  # of the process `here`: one that was forked starts its own
    environment = os.environ | {"IN_TEST": "1", "OMP_NUM_THREADS": "1"}  # IN_TEST: as nbdev_test
    environment.pop("MPLBACKEND", None)  # figures are drawn as in Jupyter
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, __file__], env=environment, cwd=Path(__file__).parent, **pipes)
    atexit.register(child.communicate)  # its input ends, and so does it
    return child


def run(job: dict) -> dict:
    "What became of one job: exit code, the end of what was said, seconds of processor time."
    child = server(os.getpid())
    child.stdin.write(json.dumps(job) + "\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


# ---- in the server


def serve() -> None:
    "Import, then answer jobs until the input ends."
    from importlib import import_module

    forks = hasattr(os, "fork") and sys.platform != "darwin"  # there the libraries do not survive a fork
    for name in SHARED if forks else ():
        import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        scratch, before = Path(json.loads(line)["scratch"]), spent()
        (scratch / "job.json").write_text(line)
        code = forked(scratch) if forks else spawned(scratch)
        said = (scratch / "said").read_text(errors="replace")[-4000:]
        answers.write(json.dumps({"code": code, "said": said, "seconds": spent() - before}) + "\n")
        answers.flush()


def spent() -> float:
    "Seconds that the processor worked for the children that have ended."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def forked(scratch: Path) -> int:
    "Exit code of a job that a child of this process runs."
    child = os.fork()
    if not child:
        try:
            os.setsid()
            to = os.open(scratch / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(to, 1)
            os.dup2(to, 2)
            code = work(scratch)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            code = 1
        finally:
            os._exit(code)
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    (scratch / "said").open("a").write(f"\nstopped after {LIMIT} s")
    return -9


def spawned(scratch: Path) -> int:
    "Exit code of a job that a new Python runs."
    with open(scratch / "said", "w") as said:
        command = [sys.executable, __file__, str(scratch)]
        try:
            return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            said.write(f"\nstopped after {LIMIT} s")
            return -9


# ---- in a notebook's process


def work(scratch: Path) -> int:
    "Run a job; `verdicts.json` has what the exercises said. The exit code is 0 if no cell raised."
    job = json.loads((scratch / "job.json").read_text())
    os.environ["IPYTHONDIR"] = str(scratch)
    os.chdir(job["folder"])
    sys.path[0] = ""  # as in a notebook, which does not see the tests
    sys.modules["__main__"].__dict__.pop("__file__", None)
    wrong, found = cells(job["cells"])
    (scratch / "verdicts.json").write_text(json.dumps(found))
    if wrong:
        print(wrong)
    return bool(wrong)


def shell():
    "IPython as a notebook's kernel has it: figures and results are drawn, and what cannot be drawn is an error."
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, **_):
            "The picture was drawn: nobody looks at it."

    class Shell(InteractiveShell):
        display_pub_class = Publisher

        def enable_gui(self, gui=None):
            "No window is opened."

        def showtraceback(self, *arguments, **options):
            self.raised = sys.exc_info()[1] or self.raised

    one = Shell.instance(config=Config(HistoryManager={"enabled": False}, InlineBackend={"figure_formats": {"png"}}))
    one.display_formatter.active_types = one.display_formatter.format_types
    one.displayhook.write_format_data = lambda *_: None
    one.displayhook.write_output_prompt = lambda *_: None
    one.enable_matplotlib("inline")
    one.raised = None
    return one


def cells(plan: list) -> tuple[str, list[dict]]:
    "Run cells as a notebook does; the first error, and the verdicts of those that come with a solution."
    one, found = shell(), []

    def value(source):
        one.raised = None
        done = one.run_cell(source)
        return done.result, done.error_before_exec or done.error_in_exec or one.raised

    for place, source, solution in plan:
        before = dict(one.user_ns)
        committed, error = value(source)
        if solution is not None and error is None:
            one.user_ns.clear()
            one.user_ns.update(before)  # the solution takes the learner's place: nothing that the cell defined is there
            solved, error = value(solution)
            pair = {"committed": committed, "solved": solved}
            verdict = {name: [getattr(item, "right", "no verdict"), repr(item)] for name, item in pair.items()}
            found.append({"cell": place} | verdict)
        if error is not None:
            return f"cell {place} raised {error!r}:\n{source}", found
    return "", found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(work(Path(sys.argv[1])))
    serve()
