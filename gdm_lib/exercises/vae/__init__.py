"""Checkers for the chapters on variational autoencoders."""
