"""RetryPolicy and StepTimeoutPolicy: what they refuse, how long they wait, what they decide."""

from __future__ import annotations

import copy
import math
import pickle
import random

import pytest

from fuseline import StepCrashed, StepTimedOut
from fuseline.errors import PolicyError
from fuseline.messages import FailureDecision
from fuseline.policies import RetryPolicy, StepTimeoutPolicy
from fuseline.policies.base import built_in_policy, policy_config

NO_NUMBERS = [math.nan, math.inf, -math.inf, "1", None, True, 1j, [1], 10**400]


class NetworkError(OSError):
    pass


class Local(Exception):
    pass


def action_of(policy: RetryPolicy, error: BaseException, attempt: int = 1) -> str | None:
    decision = policy.on_failure(None, error, attempt)
    return None if decision is None else decision.action.value


def delays(policy: RetryPolicy, count: int, draw: float = 0.0) -> list[float]:
    return [policy.next_delay(attempt, lambda: draw) for attempt in range(1, count + 1)]


# -- RetryPolicy: values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 1.0, "3", None, True, math.nan, [1]])
def test_max_retries_is_a_whole_number_from_0(value):
    with pytest.raises(PolicyError, match=r"RetryPolicy\(max_retries="):
        RetryPolicy(max_retries=value)


@pytest.mark.parametrize("name", ["wait", "backoff", "max_wait", "jitter"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:10])
def test_a_value_that_is_no_finite_number_is_refused_and_named(name, value):
    with pytest.raises(PolicyError, match=rf"RetryPolicy\({name}="):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("wait", -0.1), ("max_wait", -1), ("backoff", 0.99), ("backoff", -2), ("jitter", -0.1), ("jitter", 1.01)],
)
def test_a_value_out_of_its_limits_is_refused_and_named(name, value):
    with pytest.raises(PolicyError, match=rf"RetryPolicy\({name}={value}"):
        RetryPolicy(**{name: value})


def test_the_limits_themselves_are_fine():
    policy = RetryPolicy(max_retries=0, wait=0, backoff=1, max_wait=0, jitter=1)
    assert (policy.max_retries, policy.wait, policy.backoff, policy.max_wait, policy.jitter) == (0, 0.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize("name", ["retry_on", "give_up_on"])
@pytest.mark.parametrize(
    "value", [int, "", "Typo", ["int", "len"], [3], [ValueError("an instance")], [None], (ValueError, str)]
)
def test_a_filter_that_is_no_exception_class_is_refused_and_named(name, value):
    with pytest.raises(PolicyError, match=rf"RetryPolicy\({name}="):
        RetryPolicy(**{name: value})


def test_a_config_may_name_exceptions_that_are_unknown_here():
    config = RetryPolicy(2, retry_on="OSError").to_config() | {"retry_on": ["ErrorOfAnotherPython"], "give_up_on": []}
    policy = RetryPolicy.from_config(config)
    assert policy.to_config() == config


def test_a_policy_error_is_a_value_error():
    with pytest.raises(ValueError, match="max_retries"):
        RetryPolicy(-1)


# -- RetryPolicy: delays ----------------------------------------------------------------------------------------------


def test_the_default_does_not_wait():
    assert delays(RetryPolicy(), 3) == [0.0, 0.0, 0.0]


def test_a_wait_stays_constant_without_backoff():
    assert delays(RetryPolicy(wait=2), 3) == [2.0, 2.0, 2.0]


def test_a_wait_grows_by_its_backoff_up_to_its_cap():
    assert delays(RetryPolicy(wait=1, backoff=3, max_wait=20), 5) == [1.0, 3.0, 9.0, 20.0, 20.0]


def test_the_first_wait_is_capped_too():
    assert delays(RetryPolicy(wait=9, max_wait=2), 2) == [2.0, 2.0]


@pytest.mark.parametrize(("draw", "expected"), [(0.0, 8.0), (0.5, 6.0), (1.0, 4.0)])
def test_jitter_takes_a_drawn_share_off_the_capped_wait(draw, expected):
    assert RetryPolicy(wait=100, max_wait=8, jitter=0.5).next_delay(1, lambda: draw) == expected


def test_full_jitter_reaches_from_nothing_to_the_whole_wait():
    policy = RetryPolicy(wait=8, jitter=1)
    assert policy.next_delay(1, lambda: 0.0) == 8.0
    assert policy.next_delay(1, lambda: 1.0) == 0.0


def test_without_jitter_nothing_is_drawn():
    def draw():
        raise AssertionError("drawn")

    assert RetryPolicy(wait=3).next_delay(2, draw) == 3.0


def test_drawing_does_not_disturb_the_random_numbers_of_the_program():
    random.seed(5)
    before = random.getstate()
    policy = RetryPolicy(wait=8, jitter=1)
    for _ in range(20):
        assert 0.0 <= policy.next_delay(1) <= 8.0
        policy.on_failure(None, ValueError(), 1)
    assert random.getstate() == before


@pytest.mark.parametrize("wait", [1.0, 1e-300, 1e308])
def test_growth_beyond_all_numbers_ends_at_the_cap(wait):
    policy = RetryPolicy(wait=wait, backoff=10.0, max_wait=60)
    assert policy.next_delay(100_000) == 60.0


def test_no_wait_stays_no_wait_beyond_all_numbers():
    assert RetryPolicy(wait=0, backoff=1e300).next_delay(10_000) == 0.0


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_are_counted_from_1(attempt):
    with pytest.raises(ValueError, match="counted from 1"):
        RetryPolicy().next_delay(attempt)


# -- RetryPolicy: decisions -------------------------------------------------------------------------------------------


def test_max_retries_counts_the_tries_after_the_first():
    policy = RetryPolicy(max_retries=2)
    assert [action_of(policy, ValueError(), n) for n in (1, 2, 3, 4)] == ["RETRY", "RETRY", "FAIL", "FAIL"]


def test_no_retries_mean_that_the_first_failure_is_final():
    assert action_of(RetryPolicy(0), ValueError()) == "FAIL"


def test_a_decision_carries_its_delay():
    policy = RetryPolicy(wait=1, backoff=2)
    assert policy.on_failure(None, ValueError(), 3) == FailureDecision(FailureDecision.RETRY, 4.0)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (OSError(), "RETRY"),
        (NetworkError(), "RETRY"),
        (TimeoutError(), "RETRY"),
        (ValueError(), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_retry_on_names_the_causes_and_their_subclasses(error, action):
    assert action_of(RetryPolicy(retry_on=OSError), error) == action
    assert action_of(RetryPolicy(retry_on=[KeyError, OSError]), error) == action
    assert action_of(RetryPolicy(retry_on="OSError"), error) == action
    assert action_of(RetryPolicy(retry_on=["KeyError", "OSError"]), error) == action


def test_by_default_every_exception_is_retried_and_no_other_base_exception():
    policy = RetryPolicy()
    assert action_of(policy, Local()) == "RETRY"
    assert action_of(policy, SystemExit()) is None
    assert action_of(RetryPolicy(retry_on=BaseException), SystemExit()) == "RETRY"


def test_a_cause_of_another_policy_is_left_to_it_even_beyond_the_budget():
    assert RetryPolicy(max_retries=0, retry_on=OSError).on_failure(None, ValueError(), 9) is None


def test_give_up_on_is_stronger_than_retry_on():
    policy = RetryPolicy(retry_on=Exception, give_up_on=(FileNotFoundError, "KeyError"))
    assert action_of(policy, OSError()) == "RETRY"
    assert action_of(policy, FileNotFoundError()) == "FAIL"
    assert action_of(policy, KeyError()) == "FAIL"


def test_give_up_on_counts_for_subclasses_and_causes_of_nobody():
    assert action_of(RetryPolicy(retry_on=ValueError, give_up_on=OSError), NetworkError()) == "FAIL"


def test_classes_of_modules_are_told_by_their_dotted_names():
    name = f"{Local.__module__}.{Local.__qualname__}"
    assert action_of(RetryPolicy(retry_on=Local), Local()) == "RETRY"
    assert action_of(RetryPolicy(retry_on=name), Local()) == "RETRY"


def test_a_group_of_exceptions_is_an_exception_of_its_own():
    group = ExceptionGroup("two", [OSError(), KeyError()])
    assert action_of(RetryPolicy(), group) == "RETRY"
    assert action_of(RetryPolicy(retry_on=ExceptionGroup), group) == "RETRY"
    assert action_of(RetryPolicy(retry_on=OSError), group) is None


def test_timeouts_and_crashes_are_failures_like_others_and_can_be_told_apart():
    timed_out = StepTimedOut(step_name="s", timeout=1, killed=True)
    crashed = StepCrashed(step_name="s", how="died by SIGSEGV", signal_name="SIGSEGV")
    assert action_of(RetryPolicy(), timed_out) == action_of(RetryPolicy(), crashed) == "RETRY"
    assert action_of(RetryPolicy(give_up_on=StepTimedOut), timed_out) == "FAIL"
    assert action_of(RetryPolicy(give_up_on=StepTimedOut), crashed) == "RETRY"
    assert action_of(RetryPolicy(retry_on=TimeoutError), timed_out) == "RETRY"


def test_names_alone_decide_like_the_exception():
    policy = RetryPolicy(max_retries=1, wait=2, retry_on=OSError, give_up_on=FileNotFoundError)
    known = ("my.NetworkError", "OSError", "Exception", "BaseException")
    assert policy.decide(known, 1) == FailureDecision(FailureDecision.RETRY, 2.0)
    assert policy.decide(known, 2) == FailureDecision(FailureDecision.FAIL)
    assert policy.decide(("FileNotFoundError", *known), 1) == FailureDecision(FailureDecision.FAIL)
    assert policy.decide(("ValueError", "Exception"), 1) is None
    assert policy.decide((), 1) is None


def test_a_failure_of_which_nothing_is_known_is_answered_for_by_any_policy():
    policy = RetryPolicy(max_retries=1, retry_on=OSError, give_up_on=Exception)
    assert policy.decide(None, 1) == FailureDecision(FailureDecision.RETRY)
    assert policy.decide(None, 2) == FailureDecision(FailureDecision.FAIL)


@pytest.mark.parametrize("delay", [-0.5, math.nan, math.inf, -math.inf])
def test_a_decision_has_a_delay_that_comes_to_an_end(delay):
    with pytest.raises(PolicyError, match="delay="):
        FailureDecision(FailureDecision.RETRY, delay)


@pytest.mark.parametrize("action", [None, True, "AGAIN"])
def test_a_decision_is_one_of_three(action):
    with pytest.raises(PolicyError, match="RETRY, FAIL or SKIP"):
        FailureDecision(action)


def test_a_decision_uses_the_draw_it_is_given():
    decision = RetryPolicy(wait=8, jitter=1).decide(None, 1, lambda: 0.25)
    assert decision == FailureDecision(FailureDecision.RETRY, 6.0)


# -- RetryPolicy: as data ---------------------------------------------------------------------------------------------

FULL = RetryPolicy(2, 0.5, 3, 60, 0.1, retry_on=(OSError, Local), give_up_on=KeyError)


@pytest.mark.parametrize("policy", [RetryPolicy(), FULL])
def test_a_retry_policy_goes_to_its_config_and_back(policy):
    again = RetryPolicy.from_config(policy.to_config())
    assert again == policy
    assert hash(again) == hash(policy)
    assert built_in_policy(policy_config(policy), RetryPolicy) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert copy.deepcopy(policy) == policy


def test_the_order_of_filters_does_not_matter():
    one, other = RetryPolicy(retry_on=(OSError, KeyError)), RetryPolicy(retry_on=["KeyError", OSError])
    assert one == other
    assert one.to_config() == other.to_config()


@pytest.mark.parametrize(
    "change",
    [{"max_retries": 1}, {"wait": 1}, {"backoff": 2}, {"max_wait": 1}, {"jitter": 0.5}, {"give_up_on": OSError}],
)
def test_policies_with_other_values_are_not_equal(change):
    assert RetryPolicy(**change) != RetryPolicy()
    assert RetryPolicy(**change).to_config() != RetryPolicy().to_config()


def test_a_subclass_is_not_equal_to_its_base():
    class Mine(RetryPolicy):
        pass

    assert Mine() != RetryPolicy()
    assert RetryPolicy() != StepTimeoutPolicy(1)


# -- StepTimeoutPolicy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, -1, -0.0, *NO_NUMBERS], ids=lambda value: repr(value)[:10])
def test_a_timeout_is_a_finite_number_above_0(seconds):
    with pytest.raises(PolicyError, match=r"StepTimeoutPolicy\(.*more than 0"):
        StepTimeoutPolicy(seconds)


def test_a_timeout_needs_an_executor_that_kills_only_if_it_says_so():
    assert StepTimeoutPolicy(5).needs == frozenset()
    assert StepTimeoutPolicy(5, kill=True).needs == {"kills"}


@pytest.mark.parametrize("policy", [StepTimeoutPolicy(5), StepTimeoutPolicy(0.5, kill=True)])
def test_a_timeout_policy_goes_to_its_config_and_back(policy):
    again = StepTimeoutPolicy.from_config(policy.to_config())
    assert again == policy
    assert again.needs == policy.needs
    assert hash(again) == hash(policy)
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_timeout_policies_with_other_values_are_not_equal():
    assert StepTimeoutPolicy(5) != StepTimeoutPolicy(6)
    assert StepTimeoutPolicy(5) != StepTimeoutPolicy(5, kill=True)
    assert StepTimeoutPolicy(5) == StepTimeoutPolicy(5.0)
