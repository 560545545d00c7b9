"""To and from the engines that people run: a gallery as their file, and their file as a gallery."""
