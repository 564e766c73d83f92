# node 0 on 10.0.0.1
mkdir -p results && docker run --rm --name epbox-node0 \
    --gpus all \
    --device /dev/infiniband \
    --network host \
    --ulimit memlock=-1 \
    --cap-add IPC_LOCK \
    --cap-add SYS_NICE \
    --ipc host \
    --user "$(id -u):$(id -g)" -v "$(realpath results):/results" \
    registry.example:5000/team/epbox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef bench --workload deepep-internode --nodes 2 --node-rank 0 --master-addr 10.0.0.1 --out /results

# node 1 on 10.0.0.2
mkdir -p results && docker run --rm --name epbox-node1 \
    --gpus all \
    --device /dev/infiniband \
    --network host \
    --ulimit memlock=-1 \
    --cap-add IPC_LOCK \
    --cap-add SYS_NICE \
    --ipc host \
    --user "$(id -u):$(id -g)" -v "$(realpath results):/results" \
    registry.example:5000/team/epbox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef bench --workload deepep-internode --nodes 2 --node-rank 1 --master-addr 10.0.0.1 --out /results
