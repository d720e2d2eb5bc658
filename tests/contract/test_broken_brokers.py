"""The contract of brokers catches those that break it, and says which promise is broken."""

from __future__ import annotations

import pytest

from fuseline.broker import Broker
from fuseline.testing import BrokerContract

from . import broken_brokers as broken
from .trial import broken_promise

#: (broker, the test that catches it, the promise it names, what it saw)
PLANTS = [
    (broken.LosesARun, "older_runs_go_first", "older runs go first", "runs and steps in order"),
    (broken.ForgetsTheOrder, "older_runs_go_first", "older runs go first", "runs and steps in order"),
    (broken.GoesWide, "a_run_goes_depth_first", "to its depth before it goes wide", "the steps came as"),
    (broken.GivesOneAssignmentToTwo, "what_a_worker_held_goes_to_another", "goes to another", "is given meanwhile"),
    (broken.GivesMoreThanAsked, "get_steps_keeps_to_its_limit", "as many steps as are asked for", "[4, 0, 0], not [3"),
    (broken.ServesEverybody, "a_worker_gets_what_it_has_registered_for", "and of no other", "the worker was given"),
    (broken.NeverWakes, "get_step_wakes_when_a_run_is_dispatched", "get_step() waits for a step", "gave nothing"),
    (broken.HangsInGetStep, "get_step_gives_up", "returns None when its time is up", "in HangsInGetStep.get_step() ("),
    (broken.AcceptsStaleReports, "a_report_of_an_earlier_attempt_is_stale", "an earlier attempt is STALE", "ACCEPTED"),
    (broken.CountsAReportTwice, "a_second_report_is_stale", "the same report twice counts once", "ACCEPTED"),
    (broken.LoadsValues, "values_are_opaque", "values are opaque", "UnpicklingError"),
    (broken.RetriesTooEarly, "a_retry_waits_in_the_broker", "a retry waits in the broker", "the retry came after"),
    (broken.NeverRetries, "a_retry_waits_in_the_broker", "a retry waits in the broker", "was not given out when"),
    (
        broken.NeverTellsOfRetries,
        "a_retry_waits_in_the_broker",
        "a retry waits in the broker",
        "was not given out when",
    ),
    (broken.LosesOutputs, "the_output_of_an_attempt_is_kept", "what an attempt has printed", "'', not 'no"),
    (broken.KeepsWhatAWorkerHeld, "what_a_worker_held_goes_to_another", "goes to another", "it was given to nobody"),
    (broken.UsesUpRetriesOfTheDead, "what_a_worker_held_goes_to_another", "uses up no retry", "{0: 1}"),
    (broken.RepeatsNotices, "a_cancellation_is_told_once", "is told once", "the notices after that"),
    (broken.KillsNobody, "a_cancellation_is_told_once", "is told once", "keep_alive() gave []"),
    (broken.GoesOnAfterCancel, "a_cancelled_run_starts_nothing", "nothing new starts", "the second: True, not False"),
    (broken.ForgetsTooEarly, "a_run_is_forgotten_after_its_end", "refuses one that has not", "raised no RunNotFini"),
    (broken.NeverForgets, "a_run_is_forgotten_after_its_end", "drops a run that has ended", "raised no UnknownRun"),
    (broken.HasResultsTooEarly, "a_result_is_not_there_before_its_time", "raises RunNotFinished", "raised no RunNotF"),
    (broken.MixesUpOutputs, "several_outputs_are_a_list", "in the order of the outputs", "[2, 3, None], not [3"),
    (broken.ListsNewestFirst, "list_runs_filters", "oldest first", "all runs: "),
    (broken.TellsOfOthers, "the_events_of_a_run", "of no other run", "the runs: "),
    (broken.StreamsForEver, "the_events_of_a_run", "ends with it", "nothing came of it in"),
    (broken.LosesCauses, "the_reported_exception_is_the_cause", "the exception that was reported", "the cause: "),
    (broken.LosesAStart, "the_start_of_a_run_is_told_once", "the next one does", "[True, False, False, False]"),
    (broken.LosesAnswers, "a_run_can_be_traded_to_its_end", "gives answers in their order", "0 of 3 answers"),
]


@pytest.mark.parametrize(("broker", "test", "says", "saw"), PLANTS, ids=[plant[0].__name__ for plant in PLANTS])
def test_a_broken_broker_is_caught(broker: type[Broker], test: str, says: str, saw: str) -> None:
    error = broken_promise(BrokerContract, f"test_{test}", make_broker=broker)
    assert says in error.promise
    assert saw in error.seen


def test_a_retry_that_is_too_early_by_a_clock_moved_by_hand_is_caught() -> None:
    def make_broker(suite: BrokerContract) -> Broker:
        broker = broken.RetriesTooEarlyByHand()
        suite.clock = broker.clock
        return broker

    error = broken_promise(BrokerContract, "test_a_retry_waits_in_the_broker", make_broker=make_broker)
    assert "given out 8.0 s before its time" in error.seen
