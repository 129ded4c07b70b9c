import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import first_process, join_processes


@pytest.mark.parametrize("coordinator", ["", "localhost", "localhost:", "localhost:port", ":1234"])
def test_a_coordinator_is_a_host_and_a_port(coordinator):
    with pytest.raises(InputError, match=f"--coordinator is {coordinator!r}; give host:port"):
        join_processes(coordinator, 2, 0)


@pytest.mark.parametrize(("processes", "process"), [(None, 0), (2, None), (2, 2), (2, -1)])
def test_the_processes_are_numbered_from_0(processes, process):
    with pytest.raises(InputError, match=f"--processes is {processes} and --process {process}"):
        join_processes("localhost:1234", processes, process)


def test_the_only_process_is_the_first():
    assert first_process()
