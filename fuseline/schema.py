"""The DAG as plain data: all that a broker knows of a workflow.

A schema is made by ``Workflow.to_schema()``, goes to JSON and back unchanged, and carries a fingerprint of its steps,
edges and policies, so that two programs which build the same workflow meet on it and a changed one is noticed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from fuseline.errors import WorkflowError

__all__ = ["ON_FAILURE", "ParameterSchema", "StepSchema", "WorkflowSchema"]

#: What the failure of a step does to the rest of its run.
ON_FAILURE = ("stop", "continue")

PolicyConfig = Mapping[str, Any]


class ParameterSchema(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A parameter of ``run_step``."""

    name: str
    required: bool = True  #: whether it has no default
    depends_on: str | None = None  #: the step named by a ``Depends(...)`` default
    variadic: bool = False  #: whether it is the ``*parameter``


class StepSchema(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A step, without its code."""

    name: str
    kind: str  #: the qualified name of its class
    predecessors: tuple[str, ...] = ()  #: in the order in which the edges were drawn
    parameters: tuple[ParameterSchema, ...] = ()
    #: of all step policies that apply to it, outermost first, each with its ``"type"``
    policies: tuple[PolicyConfig, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorkflowSchema:
    """A workflow, without its code."""

    workflow_id: str
    name: str
    steps: tuple[StepSchema, ...]  #: each after its predecessors
    outputs: tuple[str, ...]
    version: str = ""
    on_failure: str = "stop"
    policies: tuple[PolicyConfig, ...] = ()  #: of the observers of the workflow

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of steps, edges and policies, in hexadecimal; equal schemas have equal fingerprints."""
        return fingerprint(self.steps, self.outputs, self.on_failure, self.policies)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        data: dict[str, Any] = json.loads(self.to_json())
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the schema that ``to_dict`` made ``data`` of.

        Raises:
            WorkflowError: ``data`` is not what ``to_dict`` makes, or its fingerprint is not that of its steps.
        """
        try:
            text = json.dumps({key: data[key] for key in _Plain.__struct_fields__}, default=_plain_mapping)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise _no_schema(error) from error
        return cls.from_json(text)

    def to_json(self) -> str:
        """Return the schema as one line of JSON."""
        plain = {
            "workflow_id": self.workflow_id,
            "name": self.name,
            "version": self.version,
            "on_failure": self.on_failure,
            "outputs": self.outputs,
            "policies": self.policies,
            "steps": list(_plain_steps(self.steps)),
            "fingerprint": self.fingerprint,
        }
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the schema that ``to_json`` made ``text`` of.

        Raises:
            WorkflowError: ``text`` is not what ``to_json`` makes.
        """
        try:
            plain, policies, steps = _decode(text)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise _no_schema(error) from error
        schema = cls(
            workflow_id=plain.workflow_id,
            name=plain.name,
            version=plain.version,
            on_failure=plain.on_failure,
            outputs=plain.outputs,
            policies=policies,
            steps=steps,
        )
        if schema.fingerprint != plain.fingerprint:
            raise WorkflowError(
                f"the schema of workflow {schema.name!r} does not fit its fingerprint. It was changed by hand or cut."
            )
        return schema


def _no_schema(error: Exception) -> WorkflowError:
    return WorkflowError(
        f"this is not the schema of a workflow: {error!r}. Make one with Workflow.to_schema(), and text with to_json()."
    )


def fingerprint(
    steps: tuple[StepSchema, ...],
    outputs: tuple[str, ...],
    on_failure: str,
    policies: tuple[PolicyConfig, ...],
) -> str:
    """Return a digest of the parts of a workflow that decide what a run of it does, in hexadecimal."""
    import hashlib  # not where a child would import it, too: it takes time

    digest = hashlib.sha256(_canonical([outputs, on_failure, policies]).encode())
    parameters: dict[int, str] = {}  # steps of one class share theirs
    for step in steps:
        known = parameters.get(id(step.parameters))
        if known is None:
            plain = [_plain_parameter(parameter) for parameter in step.parameters]
            known = parameters[id(step.parameters)] = _canonical(plain)
        # As _canonical would write it, which takes several times as long.
        before = ",".join(map(_quoted, step.predecessors))
        policies_text = _canonical(step.policies) if step.policies else "[]"
        text = (
            f'{{"kind":{_quoted(step.kind)},"name":{_quoted(step.name)},"parameters":{known},'
            f'"policies":{policies_text},"predecessors":[{before}]}}'
        )
        digest.update(text.encode())
    return digest.hexdigest()


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_quoted = json.encoder.encode_basestring_ascii


def _plain_steps(steps: tuple[StepSchema, ...]) -> Iterator[dict[str, Any]]:
    """Yield steps as plain data, which shares parts with that of others and with the steps."""
    parameters: dict[int, list[dict[str, Any]]] = {}  # steps of one class share theirs
    for step in steps:
        known = parameters.get(id(step.parameters))
        if known is None:
            known = parameters[id(step.parameters)] = [_plain_parameter(parameter) for parameter in step.parameters]
        yield {
            "name": step.name,
            "kind": step.kind,
            "predecessors": step.predecessors,
            "parameters": known,
            "policies": step.policies,
        }


def _plain_parameter(parameter: ParameterSchema) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "required": parameter.required,
        "depends_on": parameter.depends_on,
        "variadic": parameter.variadic,
    }


def _plain_mapping(thing: object) -> dict[Any, Any]:
    if isinstance(thing, Mapping):
        return dict(thing)
    raise TypeError(f"{thing!r:.100} is nothing that JSON could hold")


class _PlainStep(msgspec.Struct, gc=False):
    name: str
    kind: str
    predecessors: tuple[str, ...]
    parameters: msgspec.Raw
    policies: msgspec.Raw


class _Plain(msgspec.Struct):
    """What is in the JSON of a schema."""

    workflow_id: str
    name: str
    version: str
    on_failure: str
    outputs: tuple[str, ...]
    policies: msgspec.Raw
    steps: list[msgspec.Raw]  #: decoded one by one, because all at once would take more memory than what is kept
    fingerprint: str


class _Lenient(_Plain):
    """The same with its parts as they are."""

    policies: tuple[PolicyConfig, ...]  # type: ignore[assignment]
    steps: tuple[StepSchema, ...]  # type: ignore[assignment]


_PLAIN = msgspec.json.Decoder(_Plain)
_STEP = msgspec.json.Decoder(_PlainStep)
_PARAMETERS = msgspec.json.Decoder(tuple[ParameterSchema, ...])


def _decode(text: str) -> tuple[_Plain, tuple[PolicyConfig, ...], tuple[StepSchema, ...]]:
    """Return what is in the JSON of a schema, with its policies and steps."""
    try:
        plain = _PLAIN.decode(text)
        return plain, _policies(plain.policies), tuple(_steps(plain.steps))
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # What the standard library writes, and msgspec does not read: half a pair of surrogates, as in the name of a
        # file that is no text, and numbers that are none.
        lenient = msgspec.convert(json.loads(text), _Lenient)
        _check_policies([*lenient.policies, *(config for step in lenient.steps for config in step.policies)])
        return lenient, lenient.policies, lenient.steps


def _steps(steps: list[msgspec.Raw]) -> Iterator[StepSchema]:
    """Yield the steps. What is equal is one object: large workflows have many steps of few classes."""
    texts: dict[str, str] = {}
    parameters: dict[bytes, tuple[ParameterSchema, ...]] = {}
    for raw in steps:
        step = _STEP.decode(raw)
        key = bytes(step.parameters)
        known = parameters.get(key)
        if known is None:
            known = parameters[key] = _PARAMETERS.decode(key)
        yield StepSchema(
            name=texts.setdefault(step.name, step.name),
            kind=texts.setdefault(step.kind, step.kind),
            predecessors=tuple([texts.setdefault(name, name) for name in step.predecessors]),
            parameters=known,
            policies=_policies(step.policies),
        )


def _policies(raw: msgspec.Raw) -> tuple[PolicyConfig, ...]:
    configs = tuple(json.loads(bytes(raw)))
    _check_policies(configs)
    return configs


def _check_policies(configs: Iterable[PolicyConfig]) -> None:
    for config in configs:
        config["type"], config["config"]
