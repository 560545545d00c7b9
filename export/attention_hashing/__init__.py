"""Attention hashing: a network whose spatial attention is guided by a classification task.

Training side only; never installed. The scripts beside this package are its commands.
"""
