#!/bin/bash
# NCCL test of <~ nodes ~> hosts of type <~ instance_type ~>, made and judged as `efa-gen validate` does it; efa-gen <~ version ~> wrote it.
# Submit it with `sbatch FILE`, where Slurm hands GPUs out with `sbatch --gpus-per-node=<~ gpus ~> FILE`. It is to be submitted from a
# folder that the job can write to, on a Slurm that has PMIx: `srun --mpi=list` names it. The job's exit status is the verdict's:
# 0 is a pass.
#SBATCH --job-name=efa-gen-validate
#SBATCH --nodes=<~ nodes ~>
#SBATCH --ntasks-per-node=<~ gpus ~>
#SBATCH --exclusive
#SBATCH --time=<~ minutes ~>
#SBATCH --output=efa-gen-validate-%j.out
set -u

# The environment for <~ software | safe ~>: what it needs, and nothing that hurts.
<%- for variable in environment %>
export <~ variable[0] | safe ~>=<~ variable[1] ~>
<%- endfor %>
# Where the loader finds what its own configuration may lack.
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}<~ libraries | safe ~>"

tests=<~ tests ~>
unjudged=0

# Runs a program on the first hosts, one rank a GPU, and judges its log. What is no pass ends the job.
run() { # NAME HOSTS SECONDS PROGRAM "FLAGS OF THE JUDGE" ARGUMENTS...
  local name=$1 hosts=$2 seconds=$3 program=$4 flags=$5 status=0 log
  shift 5
  log=efa-gen-validate-$SLURM_JOB_ID.$name.log
  printf '%s: %s on %s hosts, the log is %s\n' "$name" "$program" "$hosts" "$log"
  timeout --foreground --kill-after=<~ grace ~> "$seconds" \
    srun --mpi=pmix --export=ALL --nodes="$hosts" --ntasks=$((hosts * <~ gpus ~>)) --ntasks-per-node=<~ gpus ~> --label --kill-on-bad-exit=1 \
    "$tests/$program" "$@" >"$log" 2>&1 </dev/null || status=$?
  # The flags are words without blanks.
  # shellcheck disable=SC2086
  set -- validate --log "$log" --exit-status "$status" --hosts "$hosts" $flags
  if ! command -v efa-gen >/dev/null; then
    printf 'There is no efa-gen on the PATH, so there is no verdict. Where there is one: efa-gen %s\n' "$*" >&2
    unjudged=1
    return
  fi
  efa-gen "$@" || exit
}

# The runs, one after the other.
<%- for run in runs %>
run <~ run.name ~> <~ run.hosts ~> <~ run.seconds ~> <~ run.program ~> <~ run.flags ~> <~ run.arguments | safe ~>
<%- endfor %>

# A run that nobody judged is no pass.
[ "$unjudged" = 0 ] || exit <~ not_judged ~>
