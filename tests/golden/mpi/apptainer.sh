#!/bin/bash
# EPBox bench on 2 node(s) under Open MPI 4 or 5. mpirun starts one process a node; EPBox starts the node's ranks itself.
set -u
export MASTER_ADDR=gpu01
export MASTER_PORT=${MASTER_PORT:-8361}
# Open MPI gives no job id that all nodes see: this tells two runs on one port apart.
export EPBOX_RUN_ID=${EPBOX_RUN_ID:-mpi-$(hostname)-$$}
# After TERM mpirun waits one second before KILL; EPBox gives its ranks five.
export OMPI_MCA_odls_base_sigkill_timeout=20 PRTE_MCA_odls_base_sigkill_timeout=20
out=results/mpi
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
# The image has a Python of its own; that of the login shell must not reach into it.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP
epbox=(apptainer exec --nv --no-mount "home,cwd" --bind "$out" --bind /dev/infiniband docker://registry.example:5000/team/epbox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef epbox)
hostfile=$(mktemp) && trap 'rm -f "$hostfile"' EXIT
cat > "$hostfile" <<'HOSTS'
gpu01 slots=1
gpu02 slots=1
HOSTS
# --bind-to none: EPBox binds each rank itself, and a mask of mpirun's would take cores away from its plan.
mpirun -np 2 --hostfile "$hostfile" --map-by ppr:1:node --bind-to none \
    -x MASTER_ADDR -x MASTER_PORT -x EPBOX_RUN_ID \
    "${epbox[@]}" bench --workload auto --out "$out" --runs 3 -- '--x y'
# mpirun ends all nodes when a first one fails: none does before node 0 has written the record.
code=$?
echo "epbox: exit code $code; $out/result.json"
exit "$code"
