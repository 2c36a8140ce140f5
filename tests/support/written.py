"""The metadata that a family writes, without a file."""


class Written(dict):
    """A stand-in for GGUFWriter that keeps what is added, by the name of the method or by key."""

    def __getattr__(self, name):
        if not name.startswith("add_"):
            raise AttributeError(name)
        if name in ("add_float32", "add_array", "add_string"):
            return self.__setitem__
        return lambda value: self.__setitem__(name.removeprefix("add_"), value)
