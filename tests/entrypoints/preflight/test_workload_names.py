"""doctor takes the names that bench uses, which are the manifests' too."""

import pytest

from entrypoints import workloads
from entrypoints.errors import UsageError
from entrypoints.preflight.run import workload_of


@pytest.mark.parametrize("name", workloads.names())
def test_every_workload_of_bench_has_a_family(name: str) -> None:
    assert workload_of(name) == workloads.get(name).placement


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="deepep-internode"):
        workload_of("deepep-intermode")
