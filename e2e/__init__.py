"""End-to-end suites: the real server as a subprocess, spoken to as a user would."""
