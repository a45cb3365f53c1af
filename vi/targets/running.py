"""One model at a time: NumPyro's stack of effect handlers belongs to the process."""

import threading

# Held while a model's statements run, which is while it is traced; compiled code runs without it.
RUNNING_A_MODEL = threading.RLock()
