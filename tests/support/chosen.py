"""What of a parametrized test this session runs: for fixtures that make only what is needed, all at once."""


def chosen_values(request, test, argument):
    """Values of an argument in the chosen runs of a test function, in their order."""
    # By the function, not by its name: another file may have a test of the same name.
    runs = [item for item in request.session.items if getattr(item, "function", None) is test]
    assert runs, f"{test.__name__} asks for this, but no run of it is chosen"
    return [item.callspec.params[argument] for item in runs]
