"""The Slurm, Open MPI and docker parts of the menu: each writes a script to stdout and notes to stderr."""

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from images.menu import exit_code, show, words


@task(
    name="render",
    auto_shortflags=False,
    help={
        "nodes": "how many nodes",
        "image": "REPOSITORY@sha256:DIGEST, or an image file (.sqsh, .sif)",
        "runtime": "pyxis, apptainer, podman-hpc, or none: a program of the nodes",
        "gpus-per-node": "GPUs a node, 0 for none",
        "gres": "in place of --gpus-per-node, such as gpu:h100:8",
        "partition": "Slurm partition",
        "account": "Slurm account",
        "time": "limit, as sbatch takes it",
        "job-name": "name of the job",
        "sbatch": "more sbatch options, in quotes: '--qos=high --reservation=x'",
        "exclusive": "whole nodes (default); --no-exclusive shares them",
        "signal-seconds": "TERM comes this long before the limit",
        "workload": "what bench runs (default auto)",
        "out": "folder for results that all nodes share; the job's is below it",
        "image-dir": "shared folder for the imported image (default: where sbatch is called)",
        "mounts": "more mounts, comma-separated: /SOURCE[:/TARGET[:ro]]",
        "devices": "device folders the container gets, comma-separated, or none",
        "program": "with --runtime none: the command (default epbox)",
        "master-port": "port of the rendezvous; the next one is used too",
        "gate": "doctor on every node first (default); --no-gate leaves it out",
        "allow-tag": "accept an image without a digest",
        "args": "more options for `epbox bench`, in quotes; or after --",
    },
)
def slurm_render(
    c: Context,
    nodes: int = 2,
    image: str = "",
    runtime: str = "pyxis",
    gpus_per_node: int = 8,
    gres: str = "",
    partition: str = "",
    account: str = "",
    time: str = "00:30:00",
    job_name: str = "epbox",
    sbatch: str = "",
    exclusive: bool = True,
    signal_seconds: int = 60,
    workload: str = "auto",
    out: str = "results",
    image_dir: str = "",
    mounts: str = "",
    devices: str = "/dev/infiniband",
    program: str = "epbox",
    master_port: int = 8361,
    gate: bool = True,
    allow_tag: bool = False,
    args: str = "",
) -> None:
    """Write an sbatch script to stdout, notes to stderr."""
    from . import slurm

    with exit_code("slurm.render"):
        options = slurm.SlurmOptions(
            nodes=nodes,
            image=image,
            runtime=runtime,
            gpus_per_node=gpus_per_node,
            gres=gres or None,
            partition=partition or None,
            account=account or None,
            time=time,
            job_name=job_name,
            extra=tuple(sbatch.split()),
            exclusive=exclusive,
            signal_seconds=signal_seconds,
            workload=workload,
            arguments=words(c, args),
            out=out,
            image_dir=image_dir or None,
            mounts=tuple(filter(None, mounts.split(","))),
            devices=() if devices == "none" else tuple(filter(None, devices.split(","))),
            program=program,
            master_port=master_port,
            gate=gate,
            allow_tag=allow_tag,
        )
        show(slurm.render(options), slurm.notes(options))


@task(
    name="render",
    auto_shortflags=False,
    help={
        "nodes": "how many hosts",
        "image": "REPOSITORY@sha256:DIGEST",
        "hosts": "their names or addresses, comma-separated, node 0 first (default: MASTER_ADDR names node 0's)",
        "format": "commands, or compose",
        "gpus": "all, none, a number, or device=0,1",
        "rdma": "devices and rights for RDMA (default with GPUs); --no-rdma leaves them out",
        "workload": "what bench runs (default auto)",
        "out": "result folder of each host",
        "name": "the containers are called NAME-nodeI",
        "master-port": "port of the rendezvous; the next one is used too",
        "allow-tag": "accept an image without a digest",
        "args": "more options for `epbox bench`, in quotes; or after --",
    },
)
def docker_render(
    c: Context,
    nodes: int = 2,
    image: str = "",
    hosts: str = "",
    format: str = "commands",
    gpus: str = "all",
    rdma: bool = True,
    workload: str = "auto",
    out: str = "results",
    name: str = "epbox",
    master_port: int = 8361,
    allow_tag: bool = False,
    args: str = "",
) -> None:
    """Write the `docker run` of each host, or a compose file, to stdout; notes to stderr."""
    from . import docker as containers

    with exit_code("docker.render"):
        options = containers.ContainerOptions(
            nodes=nodes,
            image=image,
            hosts=tuple(filter(None, hosts.split(","))),
            format=format,
            gpus=gpus,
            rdma=rdma,
            workload=workload,
            arguments=words(c, args),
            out=out,
            name=name,
            master_port=master_port,
            allow_tag=allow_tag,
        )
        show(containers.render(options), containers.notes(options))


@task(
    name="render",
    auto_shortflags=False,
    help={
        "nodes": "how many hosts",
        "hosts": "their names, comma-separated, node 0 first (default: those of the allocation)",
        "runtime": "none: a program of the hosts; or apptainer",
        "image": "with apptainer: REPOSITORY@sha256:DIGEST or a .sif file",
        "gpus-per-node": "GPUs a node, 0 for none",
        "workload": "what bench runs (default auto)",
        "out": "result folder, shared by all hosts",
        "program": "with --runtime none: the command (default epbox)",
        "forward": "more variables for all nodes, comma-separated",
        "master-port": "port of the rendezvous; the next one is used too",
        "allow-tag": "accept an image without a digest",
        "args": "more options for `epbox bench`, in quotes; or after --",
    },
)
def mpi_render(
    c: Context,
    nodes: int = 2,
    hosts: str = "",
    runtime: str = "none",
    image: str = "",
    gpus_per_node: int = 8,
    workload: str = "auto",
    out: str = "results/mpi",
    program: str = "epbox",
    forward: str = "",
    master_port: int = 8361,
    allow_tag: bool = False,
    args: str = "",
) -> None:
    """Write an mpirun script to stdout, notes to stderr."""
    from . import mpi

    with exit_code("mpi.render"):
        options = mpi.MpiOptions(
            nodes=nodes,
            hosts=tuple(filter(None, hosts.split(","))),
            runtime=runtime,
            image=image,
            gpus_per_node=gpus_per_node,
            workload=workload,
            arguments=words(c, args),
            out=out,
            program=program,
            forward=tuple(filter(None, forward.split(","))),
            master_port=master_port,
            allow_tag=allow_tag,
        )
        show(mpi.render(options), mpi.notes(options))


parts = (Collection("slurm", slurm_render), Collection("docker", docker_render), Collection("mpi", mpi_render))
