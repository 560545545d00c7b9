"""The exception for data that cannot be used."""


class DataError(ValueError):
    """Data that cannot be used for training or evaluation; the message says what to change."""
