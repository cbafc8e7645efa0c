#!/usr/bin/env bash
# anndata 0.12.6 cannot write any table whose rows have names, when pandas 3 is installed; pip installs them together.
#
# Versions: Python 3.11, anndata==0.12.6, pandas==3.1.1, pyarrow==26.0.1, h5py==3.16.0, numpy==2.4.6.
# One would expect: two packages that pip finds compatible write and read back a table of two objects with names.
# What happens: pandas 3 stores texts as a type of its own, also those of an index and of categories. anndata 0.12.6
#   refuses this type unless a setting allows it. If pyarrow is installed, pandas takes another type for texts, and
#   anndata has no writer for that one: the setting does not help. Texts as Python objects are written in any case.
# Source: anndata's requirements: 0.12.6 takes any pandas from 2.1 on, 0.12.19 takes pandas < 3. So pip goes back to
#   0.12.6 where pandas 3 is installed or asked for. anndata 0.13, which knows pandas 3, needs Python 3.12.
# Consequence: installing pyarrow, which anndata does not mention, makes a program fail when it saves its table. Hand
#   anndata names and categories of Python objects, or ask for pandas < 3.
# Output seen:
#   without pyarrow
#       names:                     RuntimeError
#       names, with the setting:   written, read back ['a', 'b']
#       column of texts:           RuntimeError
#       names of objects:          written, read back ['a', 'b']
#       categories of objects:     written, read back ['round', 'long']
#   with pyarrow
#       names:                     IORegistryError
#       names, with the setting:   IORegistryError
#       column of texts:           IORegistryError
#       names of objects:          written, read back ['a', 'b']
#       categories of objects:     written, read back ['round', 'long']
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet anndata==0.12.6 pandas==3.1.1 h5py==3.16.0 numpy==2.4.6
cd "$folder"
cat > attempts.py <<'PYTHON'
import warnings

import anndata
import numpy as np
import pandas as pd

warnings.simplefilter("ignore")


def attempt(what, change, shown=lambda back: back.obs_names.tolist(), setting=False):
    anndata.settings.allow_write_nullable_strings = setting
    table = anndata.AnnData(np.ones((2, 1)))
    table.var_names, table.obs_names = (pd.Index(list(names), dtype=object) for names in ("x", "cd"))
    change(table)
    try:
        table.write_h5ad("out.h5ad")
        print(f"    {what + ':':26} written, read back {shown(anndata.read_h5ad('out.h5ad'))}")
    except Exception as problem:
        print(f"    {what + ':':26} {type(problem).__name__}")


def names(table):
    table.obs_names = ["a", "b"]


def texts(table):
    table.obs["kind"] = ["round", "long"]


def named_objects(table):
    table.obs_names = pd.Index(["a", "b"], dtype=object)


def categories(table):
    kinds = pd.Index(["round", "long"], dtype=object)
    table.obs["kind"] = pd.Categorical(np.array(["round", "long"], object), categories=kinds)


attempt("names", names)
attempt("names, with the setting", names, setting=True)
attempt("column of texts", texts)
attempt("names of objects", named_objects)
attempt("categories of objects", categories, lambda back: back.obs["kind"].tolist())
PYTHON
{
    echo "without pyarrow"
    "$folder/venv/bin/python" attempts.py
    "$folder/venv/bin/python" -m pip install --quiet pyarrow==26.0.1 >&2
    echo "with pyarrow"
    "$folder/venv/bin/python" attempts.py
} > "$folder/output"
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
