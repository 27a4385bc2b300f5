"""Conformance suites: subclass one in your own tests to check a format, coder or step of yours."""
