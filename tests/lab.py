"A real JupyterLab in a real browser, with a notebook open and its kernel within reach: for the tests of the panels."

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import browser
from jupyter_client import BlockingKernelClient

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def server(folder: Path):
    "JupyterLab serving `folder`, with settings of its own that leave the user's alone; yields its address."
    private = {name: str(folder / ".private" / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    private |= {f"LAB{name}": str(folder / ".private" / name) for name in ("_SETTINGS_DIR", "_WORKSPACES_DIR")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
    environment |= {f"JUPYTER{'' if name.startswith('LAB') else '_'}{name}": path for name, path in private.items()}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"JUPYTER_CONFIG_PATH": str(ROOT / ".jupyter")}  # as `make lab` does
    port = free_port()
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += [
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=None",
    ]
    options += ["--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(folder / "lab.log", "w") as log:
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=1).close()
                break
            except OSError:
                time.sleep(0.25)
        else:
            raise TimeoutError(f"JupyterLab does not answer: {(folder / 'lab.log').read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()


class Lab:
    "An open notebook: the page, and the kernel behind it."

    def __init__(self, page, folder: Path):
        self.page, self.folder = page, folder
        self.kernel = None

    def open(self, address: str, notebook: str) -> None:
        "Open a notebook and wait until its kernel is idle (the toolbar says so too early, the status bar does not)."
        self.page.goto(f"{address}/lab/tree/{notebook}?reset")
        self.page.wait_for_selector(".jp-Notebook", timeout=60000)
        self.page.wait_for_selector('.jp-StatusBar-TextItem:has-text("| Idle")', timeout=60000)
        self.page.wait_for_timeout(1500)
        if self.page.locator(".jp-toast-button").count():
            self.page.locator(".jp-toast-button").last.click()
        runtime = Path(self.folder) / ".private" / "RUNTIME_DIR"
        self.kernel = BlockingKernelClient(
            connection_file=str(max(runtime.glob("kernel-*.json"), key=os.path.getmtime))
        )
        self.kernel.load_connection_file()
        self.kernel.start_channels()

    def run_all(self, last: str, timeout: float = 240) -> None:
        "Run every cell through the menu, and wait until the kernel has defined the name `last` and is idle."
        self.page.click('li.lm-MenuBar-item:has-text("Run")')
        self.page.click('li.lm-Menu-item[data-command="runmenu:run-all"]')
        until = time.monotonic() + timeout
        while not self.python(f"{last!r} in globals()", timeout):  # the kernel answers after the cells that it has got
            if time.monotonic() > until:
                raise TimeoutError(f"the notebook has not defined {last} after {timeout} s")
            time.sleep(0.5)
        self.page.wait_for_selector('.jp-StatusBar-TextItem:has-text("| Idle")', timeout=60000)

    def python(self, expression: str, timeout: float = 60):
        "The value of an expression in the notebook's kernel, by way of JSON."
        code = f"__import__('json').dumps({expression})"
        done = self.kernel.execute("", user_expressions={"value": code}, store_history=False)
        while True:
            reply = self.kernel.get_shell_msg(timeout=timeout)
            if reply["parent_header"].get("msg_id") == done:
                break
        value = reply["content"]["user_expressions"]["value"]
        if value["status"] != "ok":
            raise RuntimeError(f"{expression}: {value['ename']}: {value['evalue']}")
        return json.loads(ast.literal_eval(value["data"]["text/plain"]))

    def run(self, code: str, timeout: float = 60) -> None:
        "Run statements in the notebook's kernel."
        self.python(f"exec({code!r}, globals())", timeout)


@contextmanager
def lab(folder: Path, notebooks: list[Path], width: int = 1200, height: int = 1400):
    "JupyterLab on copies of the notebooks; yields what opens them."
    for path in notebooks:
        shutil.copy(path, folder / path.name)
    with server(folder) as address, browser.page(width, height, offline=True) as page:
        yield Lab(page, folder), address
