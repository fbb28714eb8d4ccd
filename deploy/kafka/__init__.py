"""A real Kafka broker, started from Maven's jars without Docker."""
