"""The worker's plumbing on Kafka: fenced transactions, changelog restore, topics. Knows no events and no segments."""
