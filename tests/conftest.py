"""Settings of every test run. It must not import infini_attention: jaxtyping's hook has to come first."""

import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples on every machine and in every run: a failure is never a matter of luck.
settings.register_profile("infini", deadline=None, derandomize=True, database=None)
settings.load_profile("infini")
