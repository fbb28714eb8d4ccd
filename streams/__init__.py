"""Settings, commands and the Kafka worker: the only package that knows Faust or Kafka."""
