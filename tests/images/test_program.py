"""A wrong command line of ./inv is one line and exit code 2."""

import pytest

from images.program import program

WRONG = {
    "bench --nodes x": "inv: --nodes: 'x' is not a whole number; ./inv --help TASK tells its options",
    "bench --nodes=two": "inv: --nodes: 'two' is not a whole number; ./inv --help TASK tells its options",
    "nosuch": "inv: 'nosuch' is not a task and not an option; ",
    "build --recpie cpu": "inv: '--recpie' is not a task and not an option; ",
    "build --recipe": "inv: --recipe needs a value; ",
    "bench --out": "inv: --out needs a value; ",
    "k8s.run --rdma-resource": "inv: --rdma-resource needs a value; ",
    "report": "inv: 'report' did not receive required positional arguments: 'folder'; ",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.run(["inv", *line.split()])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(WRONG[line])


def test_a_tasks_own_error_keeps_its_code_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.run(["inv", "render", "--recipe", "nope"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("render: images/recipes: no recipe 'nope'; allowed: cpu, ")
