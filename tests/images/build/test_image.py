"""BuildKit's plain output: steps for people, the failed step's tail for the error, and its likely cause."""

import io

import pytest

from images.build.image import Progress, likely_cause

OUTPUT = """#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s
#5 [runtime 2/4] RUN --mount=type=tmpfs,target=/run     --mount=type=secret,id=x     sh /run/steps/a.sh numactl
#5 0.210 Reading package lists...
#5 DONE 54.3s
#6 [runtime 3/4] COPY epbox/ /opt/epbox/
#6 CACHED
#7 [runtime 4/4] RUN make
#7 0.1 one
#7 0.2 gcc: fatal error: Killed signal terminated program cc1plus
#7 ERROR: executor failed running [/bin/sh -c make]: exit code: 1
------
 > [runtime 4/4] RUN make:
------
executor failed running [/bin/sh -c make]: exit code: 1
"""


def fed() -> tuple[Progress, str, str]:
    log, stream = io.StringIO(), io.StringIO()
    progress = Progress(log, stream, live=False)
    for line in OUTPUT.splitlines(keepends=True):
        progress.feed(line)
    return progress, log.getvalue(), stream.getvalue()


def test_people_see_steps_without_mounts_and_the_log_has_everything() -> None:
    _, log, shown = fed()
    assert log == OUTPUT
    assert shown == "  [runtime 2/4] RUN sh /run/steps/a.sh numactl  54 s\n"


def test_the_failed_step_is_known_with_its_last_lines() -> None:
    progress, _, _ = fed()
    assert progress.title() == "at [runtime 4/4] RUN make"
    assert progress.tail()[:2] == ["one", "gcc: fatal error: Killed signal terminated program cc1plus"]
    assert "out of memory" in str(likely_cause(progress.tail()))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("write /x: no space left on device", "disk"),
        ("SSL certificate problem: unable to get local issuer certificate", "TLS"),
        ("E: Unable to locate package foo", "archive"),
        ("Temporary failure resolving 'deb.example'", "unreachable"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "pinned"),
        ("pull access denied, repository does not exist", "base image"),
    ],
)
def test_causes(line: str, word: str) -> None:
    assert word in str(likely_cause([line]))


def test_no_cause_is_guessed() -> None:
    assert likely_cause(["error: expected ';' before '}'"]) is None
