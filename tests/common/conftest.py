"""Every test here has a work folder of its own, and no colours."""

from support.work_folders import work  # noqa: F401  a fixture
