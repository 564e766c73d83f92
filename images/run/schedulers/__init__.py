"""Schedulers and runtimes other than Kubernetes: Slurm and MPI scripts, docker and compose files."""
