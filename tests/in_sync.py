"""Are the notebooks clean, and is sdfdiff/ what they export?  Usage: python tests/in_sync.py clean|export

nbdev's command runs on a copy, so that a test never changes a file somebody is working on.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def differing(root: Path, step: str) -> list[str]:
    "The files, relative to `root`, that `nbdev_clean` or `nbdev_export` would change, add or remove."
    folder, pattern = {"clean": ("nbs", "*.ipynb"), "export": ("sdfdiff", "*.py")}[step]
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"
        for part, kind in (("nbs", "*.ipynb"), ("sdfdiff", "*.py")):
            (copy / part).mkdir(parents=True)
            for file in (root / part).glob(kind):
                # Exported modules are left out: one that no notebook exports any more then comes out as removed.
                if part == "nbs" or step == "clean" or file.name == "__init__.py":
                    shutil.copy2(file, copy / part)
        shutil.copy2(root / "settings.ini", copy)
        command = [str(Path(sys.executable).parent / f"nbdev_{step}")]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        if done.returncode or "Failed" in done.stderr:
            sys.exit(f"nbdev_{step} failed:\n{done.stdout}{done.stderr}")
        before = {file.name: file.read_bytes() for file in (root / folder).glob(pattern)}
        after = {file.name: file.read_bytes() for file in (copy / folder).glob(pattern)}
    return [f"{folder}/{name}" for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def main(step: str, root: Path) -> None:
    "Exit with one sentence if anything differs."
    if files := differing(root, step):
        wrong = {"clean": "not clean", "export": "not what the notebooks export"}[step]
        sys.exit(f"{', '.join(files)} {'are' if len(files) > 1 else 'is'} {wrong}: run nbdev_{step} (or `make sync`).")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("clean", "export"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(__file__).resolve().parents[1])
