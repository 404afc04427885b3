"""gRPC plumbing: statuses, messages, channels, servers, telemetry. Decides nothing about tokens."""
