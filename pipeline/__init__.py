"""The core: artifacts, plans and runs. It imports no torch, vllm, transformers or deepspeed, and names no plugin."""
