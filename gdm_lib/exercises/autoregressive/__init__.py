"""Checkers for the chapters on autoregressive models."""
