"""Checkers for the chapters on normalizing flows."""
