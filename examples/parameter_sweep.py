"""Try a parameter at many values: the same step, dispatched once for each value, on data that each child makes once.

A ridge regression is fitted to noisy data with 60 strengths of regularisation; the one that predicts unseen data best
wins. It shows

- ``setup``: making the data and decomposing them takes far longer than one fit. It is done once per child process, not
  once per run, and what it puts on the step is there in every ``run_step``;
- ``dispatch_many``: a sweep is many runs of one workflow that differ in their inputs;
- what to return: a few numbers instead of arrays, because results travel between processes.

Run it with::

    pip install numpy
    python examples/parameter_sweep.py
"""

import os

import numpy as np

from fuseline import MemoryBroker, ProcessEngine, Step, Workflow

SAMPLES, FEATURES = 1_500, 500


class FitRidge(Step):
    def setup(self) -> None:
        rng = np.random.default_rng(seed=1)  # the same data in every child
        truth = rng.normal(size=FEATURES) * (rng.random(FEATURES) < 0.1)  # nine of ten features do not matter
        x = rng.normal(size=(SAMPLES, FEATURES))
        y = x @ truth + rng.normal(scale=8.0, size=SAMPLES)
        half = SAMPLES // 2
        self.u, self.s, self.vt = np.linalg.svd(x[:half], full_matrices=False)  # the expensive part
        self.y, self.unseen_x, self.unseen_y = y[:half], x[half:], y[half:]

    def run_step(self, strength: float) -> dict[str, float]:
        # With the decomposition at hand, each strength costs no more than a few products.
        weights = self.vt.T @ (self.s / (self.s**2 + strength) * (self.u.T @ self.y))
        error = np.sqrt(np.mean((self.unseen_x @ weights - self.unseen_y) ** 2))
        return {"strength": strength, "error": float(error), "child": os.getpid()}


def main() -> None:
    sweep = Workflow(outputs=[FitRidge()], name="ridge_sweep")
    broker = MemoryBroker()
    strengths = np.geomspace(0.1, 100_000, num=60).tolist()
    ids = broker.dispatch_many(sweep.to_schema(), [{"strength": strength} for strength in strengths])
    ProcessEngine(broker, [sweep]).work()

    results = [broker.result(instance_id) for instance_id in ids]
    for each in results[::6]:
        print(f"strength {each['strength']:>10.2f}  error {each['error']:6.2f}  " + "#" * round(3 * each["error"]))
    best = min(results, key=lambda each: each["error"])
    children = len({each["child"] for each in results})
    print(f"best of {len(results)}: strength {best['strength']:.1f}, error {best['error']:.2f}")
    print(f"the data were made and decomposed {children} times, once in each child process")


if __name__ == "__main__":
    main()
