"""What can go wrong with the machine that the chain runs on."""


class DevstackError(Exception):
    """The chain can't run here; the message says what is wrong and what to do next."""
