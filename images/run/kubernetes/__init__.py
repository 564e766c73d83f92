"""Kubernetes: manifests and kustomizations from one image, and a run of them from start to clean-up."""
