"""doctor takes the names that bench and the manifests use."""

import pytest

from entrypoints import workloads
from entrypoints.errors import UsageError
from entrypoints.preflight.run import workload_of
from images.manifests import WORKLOADS


@pytest.mark.parametrize("name", workloads.names())
def test_every_workload_of_bench_has_a_family(name: str) -> None:
    assert workload_of(name) == workloads.get(name).placement


def test_the_manifests_name_workloads_that_bench_has() -> None:
    assert set(WORKLOADS) - {"auto"} <= set(workloads.names())


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="deepep-internode"):
        workload_of("deepep-intermode")
