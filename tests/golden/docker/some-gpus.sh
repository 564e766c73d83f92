# node 0
mkdir -p /scratch/results && docker run --rm --name epbox-node0 \
    --gpus '"device=0,1"' \
    --device /dev/infiniband \
    --network host \
    --ulimit memlock=-1 \
    --cap-add IPC_LOCK \
    --cap-add SYS_NICE \
    --ipc host \
    --user "$(id -u):$(id -g)" -v "$(realpath /scratch/results):/results" \
    registry.example:5000/team/epbox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef bench --workload auto --nodes 1 --node-rank 0 --master-port 9000 --out /results
