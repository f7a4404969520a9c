"""The HTTP intake: tickets from other programs, and figures for monitoring."""
