"""What is raised where data cannot be used."""


class DataError(ValueError):
    """Files that cannot be trained or measured on; the message says what to change."""
