"""Are the notebooks clean, and is sdfdiff/ what they export?  Usage: python tests/in_sync.py clean|export

nbdev's command runs on a copy, so that a test never changes a file somebody is working on.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BY_HAND = ("__init__.py",)  # in sdfdiff/ and its parts; all other modules are exported


def files(root: Path, step: str) -> dict[str, bytes]:
    "What a step may change, at any depth: path relative to `root` -> content."
    places = {"clean": (("nbs", "*.ipynb"), ("benchmarks", "*.ipynb")), "export": (("sdfdiff", "*.py"),)}[step]
    found = [path for folder, pattern in places for path in (root / folder).rglob(pattern)]
    return {str(path.relative_to(root)): path.read_bytes() for path in found if ".ipynb_checkpoints" not in path.parts}


def differing(root: Path, step: str) -> list[str]:
    "The files, relative to `root`, that `nbdev_clean` or `nbdev_export` would change, add or remove."
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"
        for name, content in (files(root, "clean") | files(root, "export")).items():
            # Exported modules are left out: one that no notebook exports any more then comes out as removed.
            if step == "clean" or name.endswith((".ipynb", *BY_HAND)):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(content)
        shutil.copy2(root / "settings.ini", copy)
        command = [str(Path(sys.executable).parent / f"nbdev_{step}")]
        beside = [[*command, "--fname", "benchmarks"]] if step == "clean" and (copy / "benchmarks").exists() else []
        for one in [command, *beside]:
            done = subprocess.run(one, cwd=copy, capture_output=True, text=True)
            if done.returncode or "Failed" in done.stderr:
                sys.exit(f"nbdev_{step} failed:\n{done.stdout}{done.stderr}")
        before, after = files(root, step), files(copy, step)
    return [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def main(step: str, root: Path) -> None:
    "Exit with one sentence if anything differs."
    if found := differing(root, step):
        wrong = {"clean": "not clean", "export": "not what the notebooks export"}[step]
        sys.exit(f"{', '.join(found)} {'are' if len(found) > 1 else 'is'} {wrong}: run `make sync`.")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("clean", "export"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(__file__).resolve().parents[1])
