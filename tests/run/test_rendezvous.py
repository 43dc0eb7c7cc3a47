import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from date_jax.errors import SetupError, UsageError
from date_jax.run.rendezvous import is_cluster, meet


@pytest.fixture
def coordinator() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_all_meet_whoever_comes_first(coordinator: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        waits = [
            pool.submit(meet, coordinator, index=index, count=3, timeout=30.0)
            for index in (2, 1, 0)
        ]
        assert [wait.result() for wait in waits] == [None] * 3


def test_the_missing_process_is_named(coordinator: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, coordinator, index=0, count=3, timeout=1.5)
        other = pool.submit(meet, coordinator, index=2, count=3, timeout=1.5)
        with pytest.raises(SetupError, match="only 2 of 3 processes came; missing: 1"):
            first.result()
        with pytest.raises(SetupError, match="process 0 did not call"):
            other.result()


@pytest.mark.parametrize(
    ("address", "index", "text"),
    [("somewhere", 0, "<host>:<port>"), ("a:1", 2, "from 0 to 1"), ("a:1", -1, "from 0 to 1")],
)
def test_numbers_that_make_no_sense_are_refused(address: str, index: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        meet(address, index=index, count=2, timeout=1.0)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"SLURM_NTASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_a_platform_that_started_several_is_recognised(
    environment: dict[str, str], several: bool
) -> None:
    assert is_cluster(environment) == several
