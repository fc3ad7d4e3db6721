"""The control loop: fixed work that every run times beside its subjects.

Its time is the machine's speed during the run. Times of different runs are compared only as ratios to it.
"""

import numpy as np

ELEMENTS = 4096  # 16 KB, which stay in the first-level cache
STEPS = 60


def control_loop() -> float:
    """Run fixed single-threaded work of NumPy and the interpreter, of about a tenth of a millisecond.

    Changing the work makes recorded ratios incomparable.
    """
    values, total = np.linspace(0.0, 1.0, ELEMENTS, dtype=np.float32), 0
    for step in range(STEPS):
        np.multiply(values, 0.5, out=values)
        np.add(values, 1.0, out=values)
        total += step * step % 7
    return float(values.sum()) + total
