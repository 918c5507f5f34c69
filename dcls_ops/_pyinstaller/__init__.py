"""What PyInstaller asks for by the entry point ``pyinstaller40``."""


def hook_dirs() -> list[str]:
    """The folders that hold hooks."""
    return list(__path__)
