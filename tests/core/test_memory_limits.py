"""MemoryLimitPolicy: what it refuses, how it gets to the child, who cannot honour it, and the guard in the child."""

from __future__ import annotations

import math
import pickle
import sys

import pytest

from fuseline import Step, Workflow
from fuseline.attempt import StepHost
from fuseline.encoding import decode_error, encode
from fuseline.errors import PolicyError, StepOutOfMemory, UnsupportedPolicyError
from fuseline.executors import InlineExecutor, LokyExecutor, ThreadsExecutor
from fuseline.messages import Outcome, Payload
from fuseline.policies import MemoryLimitPolicy, RetryPolicy

from .helpers import Bench, dag

MB = 10**6
NO_SIZES = [0, -1, 0.5, 1.5, 1e300, 2**61, math.nan, math.inf, -math.inf, "1", None, True, 1j, [1], 10**400]


class Work(Step):
    def run_step(self) -> None:
        pass


@pytest.mark.parametrize("size", NO_SIZES, ids=lambda value: repr(value)[:10])
def test_a_limit_is_a_whole_number_from_1(size: object) -> None:
    with pytest.raises(PolicyError, match=r"MemoryLimitPolicy\(.*whole number of bytes"):
        MemoryLimitPolicy(size)  # type: ignore[arg-type]


def test_a_float_that_is_a_whole_number_is_fine() -> None:
    policy = MemoryLimitPolicy(2e9)
    assert policy == MemoryLimitPolicy(2 * 10**9)
    assert type(policy.bytes) is int


def test_a_policy_goes_to_its_config_and_back() -> None:
    policy = MemoryLimitPolicy(500 * MB)
    again = MemoryLimitPolicy.from_config(policy.to_config())
    assert again == policy == pickle.loads(pickle.dumps(policy))
    assert hash(again) == hash(policy)
    assert policy != MemoryLimitPolicy(501 * MB)
    assert repr(policy) == "MemoryLimitPolicy(bytes=500000000)"


def test_a_limit_is_part_of_the_fingerprint() -> None:
    prints = {Workflow(Work(policies=[MemoryLimitPolicy(size)])).to_schema().fingerprint for size in (1, 2, 2)}
    assert len(prints) == 2


@pytest.mark.parametrize("place", ["step", "workflow"])
@pytest.mark.parametrize("executor", ["threads", "inline", ThreadsExecutor(1), InlineExecutor()])
def test_a_limit_is_refused_where_memory_cannot_be_limited(executor: object, place: str) -> None:
    limit = [MemoryLimitPolicy(MB)]
    step = Work(policies=limit if place == "step" else ())
    with pytest.raises(UnsupportedPolicyError, match="needs an executor that limits memory, and") as caught:
        Workflow(step, policies=limit if place == "workflow" else (), executor=executor)  # type: ignore[arg-type]
    assert caught.value.need == "limits_memory"


def test_a_limit_is_refused_when_the_executor_is_chosen_for_one_run() -> None:
    workflow = Workflow(Work(policies=[MemoryLimitPolicy(MB)]), executor="loky")
    with pytest.raises(UnsupportedPolicyError):
        workflow.run(executor="threads")
    assert LokyExecutor.limits_memory


def limits_of(*policies: MemoryLimitPolicy | RetryPolicy) -> list[int | None]:
    """Return the limits of two attempts of a step."""
    bench = Bench(dag("a", policies={"a": [RetryPolicy(1), *policies]}))
    bench.dispatch()
    first = bench.take_one()
    bench.fail(first)
    return [first.memory_limit, bench.take_one().memory_limit]


def test_each_attempt_has_the_limit() -> None:
    assert limits_of(MemoryLimitPolicy(7)) == [7, 7]


def test_the_smallest_of_several_limits_counts() -> None:
    assert limits_of(MemoryLimitPolicy(9), MemoryLimitPolicy(5), MemoryLimitPolicy(7)) == [5, 5]


def test_without_a_policy_there_is_no_limit() -> None:
    assert limits_of() == [None, None]


class Mine(MemoryLimitPolicy):
    def to_config(self) -> dict[str, object]:
        return {"mine": 1}


def test_a_subclass_counts_as_what_it_is_a_kind_of() -> None:
    assert limits_of(Mine(8)) == [8, 8]


# -- the guard in the child -------------------------------------------------------------------------------------------

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can refuse an allocation")


class Take(Step):
    """Asks for memory without touching it; refused, it does what it is told."""

    def run_step(self, size: int, handles: bool = False) -> int:
        try:
            return len(bytes(size))
        except MemoryError:
            if handles:
                return -1
            raise


def attempt(limit: int | None, **inputs: object) -> tuple[Outcome, BaseException | None]:
    payload = Payload(arguments={name: encode(value) for name, value in inputs.items()}, instance_id="r")
    report = StepHost().carry_out(Take(), (), workflow_id="w", payload=payload, token=1, memory_limit=limit)
    error = report.error and decode_error(report.error, step_name="Take", instance_id="r", attempt=1)
    return report.outcome, error


def data_limit() -> tuple[int, int]:
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)


@linux_only
def test_an_allocation_far_beyond_the_limit_is_refused_with_the_error_of_a_limit() -> None:
    before = data_limit()
    outcome, error = attempt(MB, size=3 * 2**30)
    assert outcome is Outcome.RAISED
    assert isinstance(error, StepOutOfMemory)
    assert (error.step_name, error.instance_id, error.attempt, error.limit) == ("Take", "r", 1, MB)
    assert error.used > 0
    assert data_limit() == before


@linux_only
def test_a_step_may_handle_that_it_was_refused() -> None:
    assert attempt(MB, size=3 * 2**30, handles=True) == (Outcome.RETURNED, None)


@linux_only
def test_memory_that_is_only_reserved_may_be_more_than_the_limit_by_some() -> None:
    assert attempt(MB, size=2**29) == (Outcome.RETURNED, None)


@linux_only
def test_without_a_limit_nothing_is_refused() -> None:
    assert attempt(None, size=3 * 2**30) == (Outcome.RETURNED, None)
