"The chapters of the course and their notebooks, in the order in which they are read."

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = {  # folder: title; a chapter whose name (without the number) is a package exports its modules there
    "0_ground": "First steps",
    "1_images": "Images and masks",
    "2_diffusion": "The diffusion",
    "3_ensembles": "Ensembles",
    "4_uncertainty": "Is the uncertainty right?",
    "5_study": "Studies",
    "6_results": "Results",
    "7_panels": "Panels",
    "8_engine_room": "The engine room",
    "9_comparisons": "Other methods",
    "10_beyond": "Beyond the paper",
}

INDEX = ROOT / "nbs" / "index.ipynb"  # leads to the others


def number(name: str) -> int:
    "The number with which the name of a chapter or of a notebook begins."
    return int(name.split("_")[0])


def notebooks(folder: Path = ROOT / "nbs", pattern: str = "*/*.ipynb") -> list[Path]:
    "Notebooks in the order in which they are read: by number, so that 10 comes after 9."
    found = [path for path in folder.glob(pattern) if path.parent.name[0] not in "_." and path.name[0] not in "_."]
    return sorted(found, key=lambda path: [number(part) for part in path.relative_to(folder).parts])


def label(path: Path) -> str:
    "What a link to a notebook says: `4.3 errors`."
    if path == INDEX:
        return path.stem
    name = path.stem.replace("_", " ").split(" ", 1)
    return (
        f"{number(path.parent.name)}.{name[0]} {name[1]}"
        if path.parent.parent.name == "nbs"
        else f"benchmarks {' '.join(name)}"
    )
