"""What runs around Rollcall: brokers for tests and trials, deployment files, dashboards."""
