from .collection import (
    ensemble as ensemble,
    masks as masks,
    source_mask as source_mask,
    source_pixels as source_pixels,
)
from .exports import (
    write_geojson as write_geojson,
    write_labels as write_labels,
    write_objects as write_objects,
)
from .figures import summary_figure as summary_figure
from .method import (
    METHODS as METHODS,
    QUALITIES as QUALITIES,
    Method as Method,
    method_of as method_of,
    untuned as untuned,
)
from .objects import objects_of as objects_of
from .pyramids import create_store as create_store, write_ome_zarr as write_ome_zarr
from .segmentation import (
    overlay as overlay,
    read_result as read_result,
    segment as segment,
    segment_file as segment_file,
)
