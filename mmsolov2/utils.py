"""What ``mmengine.hub.get_model('mmsolov2::…')`` asks of a package."""


def register_all_modules() -> None:
    """Register everything in this package: nothing is left to do once it is imported."""
