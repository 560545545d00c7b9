"""The flat file: a snapshot of a gallery that is searched where it lies, by any language."""
