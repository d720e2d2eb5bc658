"""Answer a question from documents: find the passages that fit, then have an answer written from them.

It shows

- where the parameters of a step come from: ``query`` is an input of the run, ``docs`` the result of the step before;
- policies: the search is killed if it takes longer than five seconds, and the answer is tried again if it fails;
- the two sides: one that dispatches runs to a broker, and an engine that works on them;
- that no ``if __name__ == "__main__"`` is needed: child processes do not import this file again.

The search is a small one of its own, and the answer is made from a template; put your vector store and your language
model there. Run it with::

    python examples/rag_worker.py
"""

import math
import re
from collections import Counter

from fuseline import ProcessEngine, Step, Workflow
from fuseline.broker import MemoryBroker
from fuseline.policies import RetryPolicy, StepTimeoutPolicy

DOCUMENTS = [
    "Fuseline runs the steps of a workflow in child processes on one machine.",
    "A step is a class with a run_step method; a workflow joins steps into a graph.",
    "The broker decides which step is ready, which one is tried again, and when.",
    "Fuseline does its work in engines: an engine takes steps from a broker and reports how they ended.",
    "A timeout kills the child process of a step, even if it is stuck in C code.",
    "A step that crashes ends its own process and no other step.",
    "While a retry waits it holds no process, so that other steps can run.",
    "A policy is attached to a step or to a whole workflow.",
    "The capital of France is Paris, which lies on the Seine.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "The moon is about 384,000 kilometres away from the earth.",
    "A violin has four strings, tuned in perfect fifths.",
]
STOP_WORDS = {"a", "an", "and", "are", "do", "does", "how", "in", "is", "it", "of", "on", "or", "the", "to", "what"}


def search_vector_store(query: str, count: int = 3) -> list[str]:
    """Return the documents that are nearest to the query: bags of words, compared by the cosine between them."""
    wanted = bag_of_words(query)
    return sorted(DOCUMENTS, key=lambda document: -cosine(wanted, bag_of_words(document)))[:count]


def bag_of_words(text: str) -> Counter[str]:
    words = re.findall(r"\w+", text.lower())
    return Counter(word.removesuffix("s") for word in words if word not in STOP_WORDS)


def cosine(a: Counter[str], b: Counter[str]) -> float:
    """Return 1.0 for the same words in the same proportions, 0.0 for no word in common."""
    return sum(a[word] * b[word] for word in a) / (math.hypot(*a.values()) * math.hypot(*b.values()) or 1.0)


def call_llm(query: str, docs: list[str]) -> str:
    facts = "\n".join(f"  [{number}] {text}" for number, text in enumerate(docs, start=1))
    return f"{query} This is what I found:\n{facts}"


class RetrieveDocs(Step):
    def run_step(self, query: str) -> list[str]:
        # fetch documents from a vector store
        return search_vector_store(query)


class GenerateAnswer(Step):
    def run_step(self, docs: list[str], query: str) -> str:
        return call_llm(query, docs)


retrieve = RetrieveDocs(policies=[StepTimeoutPolicy(5.0)])
answer = GenerateAnswer(policies=[RetryPolicy(max_retries=2, wait=1)])
retrieve.next(answer)

rag_workflow = Workflow(outputs=[answer])

BROKER = MemoryBroker()
instance = BROKER.dispatch_workflow(rag_workflow.to_schema(), {"query": "How does Fuseline work?"})

engine = ProcessEngine(BROKER, [rag_workflow])
engine.work()

print(BROKER.result(instance))
