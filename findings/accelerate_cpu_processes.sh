#!/usr/bin/env bash
# `accelerate launch --cpu --num_processes 2` starts one process, and says nothing.
#
# Versions: Python 3.11, accelerate==1.15.0, torch==2.13.0, numpy==2.4.6.
# One would expect: two processes, or a sentence why not. The help says of --num_processes: the total number of
#   processes to be launched in parallel.
# What happens: one process starts, with and without --cpu, and the number that was asked for is dropped. No warning
#   is given, also not when all values are passed. --multi_gpu starts two on a machine without any GPU; with --cpu
#   beside it, it is refused. torchrun starts two.
# Source: accelerate's commands/launch.py, where all that has no GPU goes to simple_launcher; issue 2741 asks why.
# Consequence: a training "on two processors" takes twice the time, and its batch is half of what was planned, so that
#   its result is another one. Print `Accelerator().num_processes` first, or use torchrun --nproc_per_node 2.
# Output seen:
#   --cpu --num_processes 2                1 process, 0 lines of warning
#   --num_processes 2                      1 process, 0 lines of warning
#   --multi_gpu --num_processes 2          2 processes
#   torchrun --nproc_per_node 2            2 processes
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
export HF_HOME="$folder" OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
cat > count.py <<'PYTHON'
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
if accelerator.is_main_process:
    count = accelerator.num_processes
    print(f"{count} process{'es' * (count > 1)}")
PYTHON
all_values="--num_machines 1 --mixed_precision no --dynamo_backend no"
for words in "--cpu --num_processes 2" "--num_processes 2"; do
  said="$(venv/bin/accelerate launch $words $all_values count.py 2> warnings)"
  printf '%-38s %s, %s lines of warning\n' "$words" "$said" "$(wc -l < warnings)"
done > output
words="--multi_gpu --num_processes 2"
said="$(venv/bin/accelerate launch $words --main_process_port 0 $all_values count.py 2> /dev/null)"
printf '%-38s %s\n' "$words" "$said" >> output
said="$(venv/bin/torchrun --standalone --nproc_per_node 2 count.py 2> /dev/null)"
printf '%-38s %s\n' "torchrun --nproc_per_node 2" "$said" >> output
cat output
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") output || { echo "The behaviour has changed." >&2; exit 1; }
