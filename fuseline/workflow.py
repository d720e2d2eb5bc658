"""Workflow: steps joined into a DAG, and the one call that runs it here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fuseline.attempt import Hosted, StepHost, contain, context_of, decide_failure
from fuseline.encoding import encode_error
from fuseline.errors import (
    CycleError,
    DuplicateStepError,
    PolicyError,
    StepTimedOut,
    UnsupportedPolicyError,
    WorkflowError,
)
from fuseline.graph import order_before
from fuseline.messages import AttemptReport, FailureAction, Note, Outcome, Payload, ReportAnswer
from fuseline.observers import Observers
from fuseline.policies.base import Policy, StepPolicy, WorkflowPolicy, check_hooks, policy_config
from fuseline.schema import ON_FAILURE, StepSchema, WorkflowSchema, fingerprint
from fuseline.states import State
from fuseline.step import Step, check_name, signature_of

if TYPE_CHECKING:
    from fuseline.broker.base import Broker
    from fuseline.executors.base import Executor

__all__ = ["Workflow"]


class Workflow:
    """A DAG of steps: the outputs, and all that they depend on.

    Args:
        outputs: the steps whose results a run gives back; one step or more.
        policies: a ``StepPolicy`` here applies to each step, a ``WorkflowPolicy`` observes the runs.
        executor: where steps run: the name of an executor, or an instance; None leaves the choice to the engine.
        name: default is the names of the outputs. Programs that share a broker meet on name and version.
        version: part of the identity of the workflow; change it when the meaning of a step changes.
        on_failure: what a failed step does to its run: ``"stop"`` starts nothing new, ``"continue"`` still runs the
            branches that do not depend on it. The run has failed either way.

    Attributes:
        steps: ``{name: step}``, each after its predecessors.
        outputs: the output steps, in the order given.

    Raises:
        WorkflowError: it cannot work as it is written; a subclass says why: ``CycleError``, ``DuplicateStepError``,
            ``UnboundParameterError``, ``UnknownExecutorError``, ``UnsupportedPolicyError``.
        PolicyError: a policy cannot be attached.
    """

    def __init__(
        self,
        outputs: Iterable[Step] | Step,
        *,
        policies: Iterable[Policy] = (),
        executor: str | Executor | None = None,
        name: str | None = None,
        version: str = "",
        on_failure: str = "stop",
    ) -> None:
        self.outputs = _check_outputs(outputs)
        if on_failure not in ON_FAILURE:
            raise WorkflowError(f"on_failure={on_failure!r}: use one of {', '.join(map(repr, ON_FAILURE))}.")
        self.on_failure = on_failure
        self._name_given = name is not None
        self.name = "workflow" if name is None else check_name("workflow", name)
        if name is not None and "@" in name:
            raise WorkflowError(f"{name!r} cannot name a workflow: '@' stands between name and version in its id.")
        self.version = check_name("version", version) if version else ""
        order, self._predecessors = self._sort()
        self.steps = self._settle_names(order)
        if name is None:
            self.name = check_name("workflow", "+".join(self._names[step] for step in self.outputs)[:100])
        self._workflow_id = self.name  # exact once a schema was made
        #: What the last schema was made of, that schema, and the policies, which keep their ids thereby.
        self._schema: tuple[tuple[Any, ...], WorkflowSchema, list[tuple[StepPolicy, ...]]] | None = None
        self._host = StepHost()
        self._policies: list[Policy] = []
        for policy in policies:
            self.add_policy(policy)
        self.executor = executor
        if executor is not None:
            from fuseline.executors import executor_class

            self.check_policies(executor_class(executor))

    def _sort(self) -> tuple[list[Step], dict[Step, tuple[Step, ...]]]:
        """Return all steps, each after its predecessors, and the predecessors of each, as they are now."""
        found: dict[Step, tuple[Step, ...]] = {}

        def predecessors(step: Step) -> tuple[Step, ...]:
            before = found.get(step)
            if before is None:
                before = tuple(step._predecessors)
                if depends := signature_of(step).depends:
                    before = tuple(dict.fromkeys([*before, *depends]))
                found[step] = before
            return before

        order, cycle = order_before(self.outputs, predecessors)
        if cycle is not None:
            raise CycleError(self.name, [step.name for step in cycle])
        return order, found

    def _settle_names(self, order: list[Step]) -> dict[str, Step]:
        given: set[str] = set()
        for step in order:
            if step._name_given:
                if step.name in given:
                    raise DuplicateStepError(self.name, step.name)
                given.add(step.name)
        count: dict[str, int] = {}
        self._names: dict[Step, str] = {}
        for step in order:
            name = step.name if step._name_given else type(step).__name__
            while not step._name_given:
                kind = check_name("step", type(step).__name__)
                count[kind] = count.get(kind, 0) + 1
                name = kind if count[kind] == 1 else f"{kind}-{count[kind]}"
                if name not in given:
                    break
            self._names[step] = step.name = name
        return {self._names[step]: step for step in order}

    # -- policies -----------------------------------------------------------------------------------------------------

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies of the workflow itself, in the order they were added."""
        return tuple(self._policies)

    @property
    def observers(self) -> tuple[WorkflowPolicy, ...]:
        """Those of ``policies`` that observe runs."""
        return tuple(policy for policy in self._policies if isinstance(policy, WorkflowPolicy))

    def add_policy(self, policy: Policy) -> None:
        """Add a policy and let it attach itself.

        Raises:
            PolicyError: it is no policy, or a hook of it has other parameters than it will be called with.
        """
        if not isinstance(policy, StepPolicy | WorkflowPolicy):
            raise PolicyError(
                f"workflow {self.name!r} takes instances of StepPolicy and WorkflowPolicy, not {policy!r}."
            )
        check_hooks(policy)
        self._policies.append(policy)
        policy.attach_to_workflow(self)

    def policies_of(self, step: Step) -> tuple[StepPolicy, ...]:
        """Return all policies that apply to ``step``, outermost first: the workflow's, then its own.

        A policy of the workflow is left out where the step has one of the same class of its own.
        """
        own = step.policies
        if not self._policies:
            return own
        classes = {type(policy) for policy in own}
        shared = [p for p in self._policies if isinstance(p, StepPolicy) and type(p) not in classes]
        return (*shared, *own)

    def hosted(self) -> Hosted:
        """Return what a process needs to run the steps: ``{name: (step, its policies)}``."""
        hosted = {}
        for name, step in self.steps.items():
            step.name = name  # it may have another one in another workflow
            hosted[name] = (step, self.policies_of(step))
        return hosted

    def check_policies(self, executor: type[Executor]) -> None:
        """Check that an executor can honour every policy.

        Raises:
            UnsupportedPolicyError: it lacks an ability that a policy needs.
        """
        for name, step in self.steps.items():
            for policy in self.policies_of(step):
                for need in sorted(policy.needs):
                    if not getattr(executor, need, False):
                        raise UnsupportedPolicyError(name, repr(policy), executor.name, need)

    # -- as data ------------------------------------------------------------------------------------------------------

    def to_schema(self) -> WorkflowSchema:
        """Return the workflow as plain data, with the policies it has now: all that a broker needs to know.

        O(steps + edges). While nothing changes, it is the same object each time.
        """
        names = self._names
        kinds = [type(step).__qualname__ for step in self.steps.values()]
        parameters = [signature_of(step).schemas(names) for step in self.steps.values()]
        outputs = tuple(names[step] for step in self.outputs)
        applied = [self.policies_of(step) for step in self.steps.values()]
        configs = {id(policy): policy_config(policy) for own in applied for policy in own}
        observers = self.observers
        policies = tuple(map(policy_config, observers))
        # Which policies there are, and what they say: as text, because 1 == True.
        which = [tuple(map(id, own)) if own else () for own in applied]
        said = repr((list(configs.values()), policies, self.on_failure, self.name, self.version))
        state = (kinds, parameters, outputs, which, said)
        if self._schema is not None and self._schema[0] == state:
            return self._schema[1]  # whose fingerprint is likely to be known by now
        steps = tuple(
            StepSchema(
                name=name,
                kind=kind,
                predecessors=tuple([names[before] for before in self._predecessors[step]]),
                parameters=takes,
                policies=tuple([configs[id(policy)] for policy in own]),
            )
            for (name, step), kind, takes, own in zip(self.steps.items(), kinds, parameters, applied, strict=True)
        )
        self._workflow_id = self._identity(lambda: fingerprint(steps, outputs, self.on_failure, policies))
        schema = WorkflowSchema(
            workflow_id=self._workflow_id,
            name=self.name,
            version=self.version,
            steps=steps,
            outputs=outputs,
            on_failure=self.on_failure,
            policies=policies,
        )
        self._schema = (state, schema, applied)
        return schema

    def _identity(self, digest: Callable[[], str]) -> str:
        """Return an id that is the same in every process that builds the same workflow."""
        name = self.name if self._name_given else f"{self.name}-{digest()[:12]}"
        return f"{name}@{self.version}" if self.version else name

    # -- running ------------------------------------------------------------------------------------------------------

    def run(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        executor: str | Executor | None = None,
        processes: int | None = None,
        broker: Broker | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Run the workflow here, once, and return its result. Blocks until the run has ended.

        Args:
            inputs: ``{parameter: value}`` for the parameters of steps that no other step fills.
            executor: instead of the workflow's own; default ``"loky"``.
            processes: size of the executor; default is the number of usable CPUs.
            broker: dispatch the run there; default is a ``MemoryBroker`` for this run alone.
            progress: True shows on standard error how far the run is.

        Returns:
            The result of the output; a list of results in the order of ``outputs``, if there are several. None stands
            for an output that was skipped.

        Raises:
            RunFailed: a step failed for good; its own exception is the cause.
            RunCancelled: the run was cancelled.
            WorkflowError: the inputs do not fit the steps.
            NotPicklableError: an input or a step cannot be sent to a child process.
        """
        from fuseline.engines import run_once

        return run_once(self, inputs, executor=executor, processes=processes, broker=broker, progress=progress)

    async def run_async(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        executor: str | Executor | None = None,
        processes: int | None = None,
        broker: Broker | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Like ``run``, for a program with an event loop, which goes on meanwhile.

        If the task that awaits it is cancelled, the run is cancelled and what runs is ended, as far as it can be.
        """
        import asyncio

        from fuseline.broker.memory import MemoryBroker
        from fuseline.engines import run_once

        broker = MemoryBroker() if broker is None else broker
        started: list[str] = []
        work = asyncio.ensure_future(
            asyncio.to_thread(
                run_once,
                self,
                inputs,
                executor=executor,
                processes=processes,
                broker=broker,
                progress=progress,
                on_dispatch=started.append,
            )
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            for instance_id in started:
                broker.cancel(instance_id)
            await asyncio.wait([work])
            work.exception()  # retrieved, so that nobody is warned about it
            raise

    def _execute_step(self, step: Step, shared: Mapping[str, Any]) -> Any:
        """Run one attempt of ``step`` in this process, with all policies of the workflow and the step.

        Blocks. Never raises for a failing step: ``step.state`` and ``step.error`` say how it ended. Retries are the
        broker's business, once the attempt is reported; then the observers are told what became of it, too.

        Args:
            shared: ``{parameter of run_step: object}``, as ``build_shared_dict(assignment.payload)`` makes it.

        Returns:
            What ``run_step`` returned; None if it failed.

        Raises:
            WorkflowError: ``step`` is not one of this workflow.
        """
        if step not in self._names:
            raise WorkflowError(f"{step!r} is no step of workflow {self.name!r}. Take it from workflow.steps.")
        policies = self.policies_of(step)
        payload = getattr(shared, "payload", None)
        step.name, step.state, step.error = self._names[step], State.RUNNING, None
        if payload is not None:
            context = context_of(step.name, payload, self._workflow_id)
            Observers(self).step_started(context, step, starts_run=payload.starts_run)
        result: Any = None
        try:
            result, value = self._host.run(step, policies, shared, workflow_id=self._workflow_id)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            step.error = contain(raised, step.name, payload)
            decision, place = decide_failure(step, policies, step.error, payload, workflow_id=self._workflow_id)
            step.state = State.SKIPPED if decision.action is FailureAction.SKIP else State.FAILED
            end = AttemptReport(
                token=0,
                outcome=Outcome.TIMED_OUT if isinstance(step.error, StepTimedOut) else Outcome.RAISED,
                error=encode_error(step.error),
                decision=decision,
                decided_by=place,
            )
        else:
            step.state = State.SUCCEEDED
            end = AttemptReport(token=0, outcome=Outcome.RETURNED, result=value)
        if payload is not None:
            payload.leave_note(Note(result=result, report=end, hear=partial(self._hear, step, payload, end)))
        return result

    def _hear(self, step: Step, payload: Payload, end: AttemptReport, answer: ReportAnswer) -> None:
        """Take in what a broker made of an attempt that was carried out here."""
        if answer.step_state is not None:
            step.state = answer.step_state
            context = context_of(step.name, payload, self._workflow_id)
            Observers(self).step_ended(context, step, answer, step.error, end.result)

    def teardown(self) -> None:
        """Tear down the steps that ``_execute_step`` has set up in this process. An engine does this by itself."""
        self._host.close()

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r} of {len(self.steps)} steps>"


def _check_outputs(outputs: Iterable[Step] | Step) -> tuple[Step, ...]:
    if isinstance(outputs, Step):
        outputs = (outputs,)
    steps = tuple(outputs)
    if not steps:
        raise WorkflowError("a workflow without outputs has no steps. Pass outputs=[step, …].")
    for step in steps:
        if not isinstance(step, Step):
            hint = " Call the class to make an instance." if isinstance(step, type) else ""
            raise WorkflowError(f"outputs of a workflow are steps, not {step!r}.{hint}")
    if len(set(steps)) < len(steps):
        raise WorkflowError("outputs name the same step twice. Name each output once.")
    return steps
