"""All that casckpt promises, tried."""

import os

# Several processes of tests share the cores. A thread of torch that waits for others of its own should leave its core
# to them. The library reads this when it is loaded; children inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
