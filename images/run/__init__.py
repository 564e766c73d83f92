"""What runs images: containers of this host, Kubernetes, schedulers."""
