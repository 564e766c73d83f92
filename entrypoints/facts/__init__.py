"""Facts that recipes, doctor, plan, diagnosis, manifests and docs share: each stands here once, as data, and the others ask."""
