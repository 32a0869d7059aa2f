"""Checkers for the chapters on normalizing autoregressive models."""
