"""Contract tests for those who write a backend or a runner of their own; they need pytest."""
