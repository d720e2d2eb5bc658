"""Every exception of fuseline: what it inherits from, what it says, and that it survives ``pickle``."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from fuseline import errors
from fuseline.encoding import decode_error, encode_error
from fuseline.errors import (
    BrokerError,
    CycleError,
    DuplicateStepError,
    EndlessMoves,
    FuselineError,
    IllegalMove,
    InternalError,
    InvariantBroken,
    NotPicklableError,
    PolicyError,
    RemoteStepError,
    RemoteTraceback,
    RunCancelled,
    RunError,
    RunFailed,
    RunNotFinished,
    RunTimedOut,
    StepCrashed,
    StepError,
    StepLost,
    StepOutOfMemory,
    StepTimedOut,
    StoreDamaged,
    StoreError,
    StoreInUse,
    UnboundParameterError,
    UnknownExecutorError,
    UnknownInputError,
    UnknownRunError,
    UnknownStepError,
    UnknownWorkerError,
    UnsupportedPolicyError,
    WorkflowChangedError,
    WorkflowError,
)

WHERE = {"step_name": "fit", "instance_id": "7f3a", "attempt": 2}

#: One of each, with the built-in it is promised to be and words that its message must have.
EXAMPLES: list[tuple[FuselineError, type[Exception], list[str]]] = [
    (FuselineError("something"), Exception, ["something"]),
    (WorkflowError("cannot work"), ValueError, ["cannot work"]),
    (CycleError("etl", ["a", "b", "a"]), ValueError, ["'etl'", "a -> b -> a", "Remove one"]),
    (DuplicateStepError("etl", "a"), ValueError, ["'etl'", "'a'", "name="]),
    (UnboundParameterError("fit", "x", "Draw an edge."), ValueError, ["'fit'", "'x'", "Draw an edge."]),
    (UnboundParameterError("fit", "x", "Draw an edge."), TypeError, []),
    (UnknownInputError("etl", {"b", "a"}, {"d", "c"}), ValueError, ["'etl'", "'a', 'b'", "'c', 'd'", "Rename"]),
    (UnknownExecutorError("x", ["loky", "inline"]), ValueError, ["'x'", "inline, loky", "Use one of these"]),
    (UnsupportedPolicyError("fit", "P()", "threads", "kills"), ValueError, ["P()", "'fit'", "'threads'", "kills"]),
    (WorkflowChangedError("etl@1"), ValueError, ["'etl@1'", "version="]),
    (PolicyError("a timeout of 0"), ValueError, ["a timeout of 0"]),
    (NotPicklableError("the result", "a lock", "Return data."), TypeError, ["the result", "a lock", "Return data."]),
    (StepError("it went wrong", **WHERE), Exception, ["it went wrong"]),
    (
        StepTimedOut(timeout=30, killed=True, **WHERE),
        TimeoutError,
        ["'fit'", "7f3a", "30 s and was killed", "attempt 2"],
    ),
    (
        StepTimedOut(timeout=0.5, killed=False, step_name="fit"),
        TimeoutError,
        ["0.5 s and was interrupted", "Raise its"],
    ),
    (
        StepOutOfMemory(limit=2**30, used=3 * 2**29, **WHERE),
        MemoryError,
        ["'fit'", "7f3a", "attempt 2", "used 1.5 GiB", "limit of 1.0 GiB", "Raise its MemoryLimitPolicy"],
    ),
    (
        StepOutOfMemory(limit=2**21, used=512, step_name="fit"),
        MemoryError,
        ["asked for far more memory", "limit of 2.0 MiB", "512 bytes"],
    ),
    (StepCrashed(how="died by SIGSEGV", signal_name="SIGSEGV", **WHERE), RuntimeError, ["'fit'", "died by SIGSEGV"]),
    (StepLost("no process to be had", **WHERE), RuntimeError, ["no process to be had"]),
    (
        RemoteStepError(type_name="my.Error", original_message="no", reason="it holds a lock", **WHERE),
        RuntimeError,
        ["'fit'", "my.Error: no", "it holds a lock", "picklable"],
    ),
    (RunError("about a run", "7f3a"), Exception, ["about a run"]),
    (RunFailed("7f3a", "etl", ["a", "b"], "ValueError: no"), RuntimeError, ["7f3a", "'etl'", "'a', 'b'", "ValueError"]),
    (
        RunTimedOut("7f3a", "etl", 60.0, ["a"]),
        TimeoutError,
        ["7f3a", "'etl'", "60 s", "Raise its WorkflowTimeoutPolicy"],
    ),
    (RunTimedOut("7f3a", "etl", 60.0), RunFailed, []),
    (RunCancelled("7f3a", "etl"), RuntimeError, ["7f3a", "'etl'", "cancelled"]),
    (RunNotFinished("7f3a", "etl", "RUNNING"), RuntimeError, ["7f3a", "'etl'", "RUNNING", "work()"]),
    (UnknownRunError("7f3a"), KeyError, ["'7f3a'", "forgotten"]),
    (UnknownWorkerError("w1"), KeyError, ["'w1'", "register_worker()"]),
    (UnknownStepError("x", "etl", ["a", "b"]), KeyError, ["'x'", "'etl'", "'a', 'b'"]),
    (BrokerError("cannot be reached"), ConnectionError, ["cannot be reached"]),
    (StoreError("cannot be used"), OSError, ["cannot be used"]),
    (StoreInUse("/a/runs.db", 17), OSError, ["/a/runs.db", "process 17"]),
    (StoreDamaged("/a/runs.db", "cut"), OSError, ["/a/runs.db", "damaged: cut"]),
    (InternalError("something"), RuntimeError, ["something"]),
    (EndlessMoves("run r", 8, "a READY, a RUNNING"), RuntimeError, ["run r", "8 moves", "a RUNNING", "bug"]),
    (InvariantBroken("run r", "counts its open steps"), RuntimeError, ["not true that run r counts", "bug"]),
    (IllegalMove("step 'a'", "FAILED", "READY", "attempts 3"), RuntimeError, ["FAILED", "READY", "attempts 3", "bug"]),
]
ALL = {
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, Exception) and cls.__module__ == errors.__name__
}
#: Parameters of an ``__init__`` that are parts of the message, and no fields.
NO_FIELDS = {
    "self",
    "message",
    "advice",
    "how",
    "reason",
    "names",
    "name",
    "state",
    "whom",
    "origin",
    "target",
    "moves",
}

each = pytest.mark.parametrize("error", [error for error, _, _ in EXAMPLES], ids=lambda error: type(error).__name__)


def test_no_class_is_forgotten_here():
    assert {type(error) for error, _, _ in EXAMPLES} == ALL - {RemoteTraceback}


def test_every_class_is_public_and_in_the_map_of_the_module():
    assert set(errors.__all__) == {cls.__name__ for cls in ALL}
    assert errors.__doc__ is not None
    for cls in ALL - {RemoteTraceback}:
        assert cls.__name__ in errors.__doc__


@pytest.mark.parametrize(("error", "builtin", "words"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_every_error_is_the_built_in_it_promises_and_says_what_and_to_whom(error, builtin, words):
    assert isinstance(error, FuselineError)
    assert isinstance(error, builtin)
    for word in words:
        assert word in str(error)


def parents(cls: type) -> set[type]:
    return {base for base in cls.__mro__ if base in ALL} - {cls}


def test_the_tree_of_errors_is_as_the_module_draws_it():
    for error, _, _ in EXAMPLES:
        cls = type(error)
        if cls in (CycleError, DuplicateStepError, UnboundParameterError, UnknownInputError, UnknownExecutorError):
            assert parents(cls) == {WorkflowError, FuselineError}
        if cls in (StepTimedOut, StepCrashed, StepLost, RemoteStepError):
            assert parents(cls) == {StepError, FuselineError}
        if cls in (RunFailed, RunCancelled, RunNotFinished, UnknownRunError):
            assert parents(cls) == {RunError, FuselineError}
        if cls in (IllegalMove, EndlessMoves, InvariantBroken):
            assert parents(cls) == {InternalError, FuselineError}


def assert_same(one: BaseException, other: BaseException) -> None:
    assert type(one) is type(other)
    assert one.args == other.args
    assert str(one) == str(other)
    assert vars(one) == vars(other)


@each
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickle_with_fields_and_message(error, protocol):
    assert_same(pickle.loads(pickle.dumps(error, protocol)), error)


@each
def test_every_error_survives_copy(error):
    assert_same(copy.copy(error), error)
    assert_same(copy.deepcopy(error), error)


@each
def test_every_error_survives_the_way_of_a_step_error(error):
    assert_same(decode_error(encode_error(error), step_name="fit"), error)


@each
def test_every_field_of_an_error_is_an_attribute(error):
    parameters = inspect.signature(type(error).__init__).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for name in named - NO_FIELDS:
        assert hasattr(error, name)


@each
def test_every_error_can_be_raised_from_another_and_be_noted(error):
    error = copy.copy(error)
    error.add_note("a note")
    try:
        raise error from ValueError("cause")
    except FuselineError as caught:
        assert isinstance(caught.__cause__, ValueError)
        assert pickle.loads(pickle.dumps(caught)).__notes__ == ["a note"]


def test_a_subclass_of_a_user_survives_pickle_too():
    copied = pickle.loads(pickle.dumps(MyError("x", code=3)))
    assert (str(copied), copied.code) == ("x", 3)


class MyError(WorkflowError):
    def __init__(self, message, *, code):
        super().__init__(message)
        self.code = code


# -- details ----------------------------------------------------------------------------------------------------------


def test_the_message_of_a_key_error_is_not_quoted():
    assert str(UnknownRunError("x")).startswith("no run has the id 'x'. ")


def test_an_error_without_arguments_says_its_name():
    assert str(FuselineError()) == "FuselineError"


def test_a_long_cycle_is_shortened_in_the_message_and_whole_in_the_field():
    names = [f"step{i}" for i in range(1000)]
    error = CycleError("etl", [*names, "step0"])
    assert len(error.cycle) == 1001
    assert "step5 -> … -> step996" in str(error)


def test_many_failed_steps_are_shortened_in_the_message_and_whole_in_the_field():
    error = RunFailed("r", "etl", [f"s{i}" for i in range(9)], "no")
    assert len(error.step_names) == 9
    assert "failed in steps 's0', 's1', 's2', 's3', 's4', …: no" in str(error)
    assert "failed in step 'a': no" in str(RunFailed("r", "etl", ["a"], "no"))


@pytest.mark.parametrize(
    ("returncode", "text", "exit_code", "signal_name"),
    [
        (0, "ended its process with exit code 0", 0, None),
        (3, "ended its process with exit code 3", 3, None),
        (-9, "died by SIGKILL", None, "SIGKILL"),
        (-11, "died by SIGSEGV", None, "SIGSEGV"),
        (-63, "died by signal 63", None, "signal 63"),
        (None, "left no exit code", None, None),
    ],
)
def test_the_end_of_a_process_is_described(returncode, text, exit_code, signal_name):
    error = StepCrashed.from_returncode(returncode, **WHERE)
    assert text in str(error)
    assert (error.exit_code, error.signal_name) == (exit_code, signal_name)
    assert (error.step_name, error.instance_id, error.attempt) == ("fit", "7f3a", 2)
    assert ("out of memory" in str(error)) == (signal_name == "SIGKILL")


def test_run_and_attempt_are_left_out_where_there_is_none():
    error = StepTimedOut(step_name="fit", timeout=1, killed=False)
    assert str(error).startswith("step 'fit' ran longer")
    assert (error.instance_id, error.attempt) == (None, None)


def test_a_remote_traceback_shows_the_text_as_it_was():
    assert "Traceback: here\n  line" in str(RemoteTraceback("Traceback: here\n  line"))
    assert pickle.loads(pickle.dumps(RemoteTraceback("text"))).args == ("text",)
