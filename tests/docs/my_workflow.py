"""The reader's own module, as the pages call it."""

from fuseline import Step, Workflow
from fuseline.policies import RetryPolicy, StepTimeoutPolicy


def search_vector_store(query: str) -> list[str]:
    return [f"a document about {query}"]


def call_llm(query: str, docs: list[str]) -> str:
    return f"{query} {docs}"


class RetrieveDocs(Step):
    def run_step(self, query: str) -> list[str]:
        return search_vector_store(query)


class GenerateAnswer(Step):
    def run_step(self, docs: list[str], query: str) -> str:
        return call_llm(query, docs)


retrieve = RetrieveDocs(policies=[StepTimeoutPolicy(5.0)])
answer = GenerateAnswer(policies=[RetryPolicy(max_retries=2, wait=1)])
retrieve.next(answer)
rag_workflow = Workflow(outputs=[answer])
