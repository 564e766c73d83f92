# node 0
mkdir -p results && docker run --rm --name epbox-node0 \
    --network host \
    --cap-add SYS_NICE \
    --ipc host \
    -e MASTER_ADDR="${MASTER_ADDR:?address of the host of node 0}" \
    --user "$(id -u):$(id -g)" -v "$(realpath results):/results" \
    registry.example:5000/team/epbox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef bench --workload alltoall --nodes 2 --node-rank 0 --out /results --ranks 2 --quiet

# node 1
mkdir -p results && docker run --rm --name epbox-node1 \
    --network host \
    --cap-add SYS_NICE \
    --ipc host \
    -e MASTER_ADDR="${MASTER_ADDR:?address of the host of node 0}" \
    --user "$(id -u):$(id -g)" -v "$(realpath results):/results" \
    registry.example:5000/team/epbox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef bench --workload alltoall --nodes 2 --node-rank 1 --out /results --ranks 2 --quiet
