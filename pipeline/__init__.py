"""The core: artifacts, plans and runs. It imports no torch, vllm, transformers or deepspeed, and names no plugin."""

import os

from pipeline import rooms

rooms.first()
# Ray reads this once, when it is first imported, and vLLM imports Ray: so it is set before either can be.
os.environ.setdefault("RAY_AUTH_MODE", "token")
