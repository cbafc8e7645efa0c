"Folders as data sets have them, for tests that find and read cases."

import numpy as np
from PIL import Image

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
MASK = np.zeros((40, 50), np.uint8)
MASK[5:15, 5:20], MASK[20:36, 10:40] = 1, 2
SQUARE = [(5, 5), (5, 15), (15, 15), (15, 5)]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)


def aperio(*regions, root="Annotations"):
    "An annotation file from corners (row, column)."
    inner = "".join(
        "<Region><Vertices>"
        + "".join(f'<Vertex X="{column}" Y="{row}"/>' for row, column in corners)
        + "</Vertices></Region>"
        for corners in regions
    )
    return f"<{root}><Annotation><Regions>{inner}</Regions></Annotation></{root}>"
