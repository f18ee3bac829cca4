"""What the Hugging Face hub's client does when the hub cannot be asked."""


def unreachable() -> tuple[type[Exception], ...]:
    """What it raises: OSError (not found, offline), and the error of whichever HTTP library this version of it uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(each for each in HfHubHTTPError.__bases__ if issubclass(each, Exception))
