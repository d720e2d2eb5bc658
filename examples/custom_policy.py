"""Write policies of your own: one that wraps steps where they run, one that observes the whole run from outside.

It shows

- a ``StepPolicy``: its ``execute`` is called around ``run_step``, in the child process. This one logs how long each
  attempt took and how it ended. On a workflow it applies to every step;
- ``current_run()``, which tells the code of steps and policies which attempt of which run it is;
- a ``WorkflowPolicy``: its hooks are called in this process, so what it gathers is there when the work is done;
- how they go together with a built-in policy: ``RetryPolicy`` has the download tried again.

Run it with::

    python examples/custom_policy.py
"""

import time
from collections import Counter

from fuseline import Step, Workflow, current_run
from fuseline.policies import RetryPolicy, StepPolicy, WorkflowPolicy


class LogDuration(StepPolicy):
    """Logs each attempt that takes ``at_least`` seconds."""

    def __init__(self, at_least=0.0):
        self.at_least = at_least

    def execute(self, step, call):
        started = time.perf_counter()
        outcome = "failed"
        try:
            result = call()  # the policies further in, then run_step
            outcome = "succeeded"
            return result
        finally:
            seconds = time.perf_counter() - started
            if seconds >= self.at_least:
                print(f"{step} attempt {current_run().attempt} {outcome} after {seconds:.3f} s", flush=True)

    def to_config(self):
        return {"at_least": self.at_least}  # part of the workflow's schema: a changed value is a changed workflow


class CountEvents(WorkflowPolicy):
    """Counts what happens, over all runs."""

    def __init__(self):
        self.counts = Counter()
        self.errors = []

    def on_step_start(self, step):
        self.counts["started"] += 1

    def on_step_success(self, step, result):
        self.counts["succeeded"] += 1

    def on_step_failure(self, step, exc):
        self.counts["failed"] += 1
        self.errors.append(f"{step}: {exc}")

    def on_step_retry(self, step, exc, delay):
        self.counts["retried"] += 1


class Download(Step):
    def run_step(self, url):
        time.sleep(0.05)  # the network
        if current_run().attempt == 1:
            raise ConnectionError(f"no answer from {url}")
        return "to be or not to be"


class CountWords(Step):
    def run_step(self, text):
        return len(text.split())


download = Download(policies=[RetryPolicy(max_retries=2, wait=0.1)])
count_words = CountWords()
download >> count_words

events = CountEvents()
workflow = Workflow(outputs=[count_words], policies=[LogDuration(), events])

print("words:", workflow.run({"url": "https://example.org/hamlet"}))
print("attempts:", ", ".join(f"{count} {what}" for what, count in events.counts.items()))
print("errors:", *events.errors)
