"""Ways to run an image: containers of this host, Kubernetes, schedulers."""
