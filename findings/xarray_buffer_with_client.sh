#!/usr/bin/env bash
# A dataset cannot be written to a buffer while a client of dask is open, although nothing in it is dask's.
#
# Versions: Python 3.11, xarray==2026.9.0, h5netcdf==1.8.2, h5py==3.16.0, dask==2026.8.0, distributed==2026.8.0,
#   numpy==2.4.6.
# One would expect: Dataset.to_netcdf writes values that are in memory to an io.BytesIO, as it does without a client.
#   A file on disk is written with a client, too.
# What happens: a RuntimeError about an unknown semaphore. An open client makes xarray take a lock of the cluster; its
#   name is made of the target, a buffer here, and the scheduler has never heard of it. The scheduler logs tracebacks.
#   With dask.config.set(scheduler="synchronous") around the call it is written.
# Source: xarray's choice of a lock from the scheduler that is active, for every target.
# Consequence: results that are kept whole in memory before they are put on a disk are lost at the end of long work on
#   a cluster. Write them after the client is closed, or with the synchronous scheduler.
# Output seen:
#   no client, a buffer:      written
#   client, a file:           written
#   client, a buffer:         RuntimeError: Semaphore or Lock ... not known.
#   client, synchronous:      written
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet xarray==2026.9.0 h5netcdf==1.8.2 h5py==3.16.0 dask==2026.8.0 \
    distributed==2026.8.0 numpy==2.4.6
cat > "$folder/write.py" <<'PYTHON'
import io
import logging
import re
import sys
from pathlib import Path

import dask
import numpy as np
import xarray as xr
from distributed import Client, LocalCluster


def write(way, target):
    data = xr.Dataset({"p": ("pixel", np.arange(3.0))})
    try:
        data.to_netcdf(target, engine="h5netcdf")
        found = "written"
    except RuntimeError as error:
        found = f"RuntimeError: {re.sub('`.*`', '...', str(error))}"
    print(f"{way + ':':<25} {found}")


if __name__ == "__main__":
    write("no client, a buffer", io.BytesIO())
    quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    with LocalCluster(n_workers=1, threads_per_worker=1, **quiet) as cluster, Client(cluster):
        write("client, a file", Path(sys.argv[1], "p.nc"))
        write("client, a buffer", io.BytesIO())
        with dask.config.set(scheduler="synchronous"):
            write("client, synchronous", io.BytesIO())
PYTHON
"$folder/venv/bin/python" "$folder/write.py" "$folder" > "$folder/output" 2> "$folder/log"
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$0") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
