"""A chat, as prompts and responses hold it."""

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""
