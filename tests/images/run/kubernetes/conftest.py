"""test_apiserver.py runs where there is an API server: its first lines say how to have one."""

import os

collect_ignore = [] if os.environ.get("KUBEBUILDER_ASSETS") else ["test_apiserver.py"]
