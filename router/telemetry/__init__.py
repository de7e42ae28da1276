"""Requests as spans of OpenTelemetry; see docs/opentelemetry.md."""
