import os
from types import SimpleNamespace

current_platform = SimpleNamespace(is_cuda_alike=lambda: "ENGINE_ON_GPU" in os.environ)
