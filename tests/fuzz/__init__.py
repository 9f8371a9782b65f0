"""Fuzzing: broken input of every kind against everything that reads bytes from outside."""
